/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "launcher/launcher-protocol.h"
#include "server-config.h"

/* Which of the node's devices are there, and which of them are given out. What a set means is the launcher's
 * affair: it numbers them, and tells which attempt has which, also to an agent that has started anew. */

typedef struct Devices Devices;

/* config must outlive it. Returns 0, -ENOMEM. */
int devices_new(const ServerConfig *config, Devices **ret);
Devices *devices_free(Devices *devices);
DEFINE_CLEANUP(Devices, devices_free);

/* The launcher's WELCOME: it is going to tell which there are. Those that are given out stay so. */
void devices_begin(Devices *devices);
/* LAUNCHER_DEVICE. */
void devices_take(Devices *devices, const LauncherEvent *event);
/* It has told all: says what is missing. */
void devices_listed(const Devices *devices);

/* How many of the i-th resource the node offers: of its devices those that are there. */
uint64_t devices_count(const Devices *devices, size_t i);

enum { DEVICES_WHY_SIZE = 160 };

/* Chooses what an order is to have: `devices` of DISPATCH, or NULL. What the node only counts is the
 * master's affair. Fills in devices and variables of start, and ret_held, which are given out until
 * devices_give_back(). Returns 0, -EBADMSG, -EBUSY (not so many are free), -ENOENT (no such resource),
 * -E2BIG, the last three with a sentence. */
int devices_give(Devices *devices, json_object *wanted, LauncherStart *start, LauncherDevices *ret_held,
                 char why[static DEVICES_WHY_SIZE]);
/* Of an attempt in the launcher's table, with shared ones or without. Fills in what is given out. */
void devices_held(Devices *devices, const LauncherDevices *has, LauncherDevices *held);
/* Counts by resource of what is given out, for REPORT: "devices", unless there are none. Returns 0,
 * -ENOMEM. */
int devices_add_json(const Devices *devices, const LauncherDevices *held, json_object *object);
/* Empties the set. */
void devices_give_back(Devices *devices, LauncherDevices *held);
