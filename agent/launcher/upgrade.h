/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <systemd/sd-event.h>

#include "manager.h"
#include "upgrade-record.h"

/* The launcher replaces itself by execve(2): its children, who would die with it, stay; so do all file
 * descriptors that are listed in the state, which goes over in a sealed memory file. */

/* The first thing of all: takes what a former version has handed over, closes what is not listed. Returns 0
 * when there is nothing, 1, -errno with a sentence: then the tasks cannot be saved. */
int upgrade_receive(UpgradeState **ret, const char **ret_why);

/* What to execute: this program's own file, or what lies there then. argv has to stay. Returns 0, -errno. */
int upgrade_prepare(char *argv[]);

/* Begins it: once nothing is asked of systemd, the program is replaced. daemon_reloaded() is called when
 * that is not possible: then everything goes on as before. */
void upgrade_begin(Manager *manager);
Upgrade *upgrade_free(Upgrade *upgrade);

/* Makes the manager's zygotes, pairs and attempts out of the state. Returns 0, -errno with a sentence. */
int upgrade_restore(Manager *manager, const UpgradeState *state, const char **ret_why);

/* When all is in place: tells the journal, and has zygotes made anew if the programs are others. */
void upgrade_finish(Manager *manager, const UpgradeState *state);

/* The filter of the launcher on itself, unless it has it already. state may be NULL. Returns 0, -errno. */
int upgrade_filter_install(const UpgradeState *state);

/* When a timer is due, USEC_INFINITY for none; and such a timer again, if any. */
uint64_t upgrade_timer_save(sd_event_source *timer);
int upgrade_timer_restore(sd_event *event, sd_event_source **ret, uint64_t usec,
                          sd_event_time_handler_t handler, void *userdata);
