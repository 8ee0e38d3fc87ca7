/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stddef.h>

#include "frame.h"
#include "parse-util.h"
#include "tls-context.h"

/* One frame to a master, one frame back, for programs that have nothing else to do meanwhile. */

enum { MASTER_REQUEST_TIMEOUT_S = 20 };

/* Connects to the first of the masters that can be reached, sends the frame and waits for an answer of that
 * type. Runs an event loop of its own. Returns 0; -EACCES when the master refused; -EKEYREJECTED,
 * -EKEYEXPIRED, -EKEYREVOKED, … as a connection ends; -ETIMEDOUT. On failure ret_message has a sentence
 * (NULL without memory). */
int master_request(const Address *masters, size_t n_masters, TlsContext *tls, FrameType type,
                   json_object *json, FrameType answer, json_object **ret, char **ret_message);
