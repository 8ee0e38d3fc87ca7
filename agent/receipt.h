/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>

#include "launcher/launcher-protocol.h"

/* RECEIPT of docs/protocol.md from the launcher's figures; NULL: the attempt never ran. A figure that is not
 * known becomes null, with the reason under "unknown"; it never becomes 0. `queued_us` is the master's to
 * add. Returns 0, -ENOMEM. */
int receipt_to_json(const LauncherReceipt *receipt, bool warm, bool cgroup_v2, json_object **ret);
