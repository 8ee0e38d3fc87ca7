#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The guest is what it claims to be: a real systemd with the unified hierarchy alone, whose scopes have limits.
set -eu

test "$(cat /proc/1/comm)" = systemd
test "$(stat --file-system --format=%T /sys/fs/cgroup)" = cgroup2fs
grep -q memory /sys/fs/cgroup/cgroup.controllers
# shellcheck disable=SC2016  # the inner shell expands it
test "$(systemd-run --quiet --scope --property=MemoryMax=50M -- \
        sh -c 'cat "/sys/fs/cgroup$(sed s/^0::// /proc/self/cgroup)/memory.max"')" = 52428800
python3 -c 'import cloudpickle, yaml'
test "$(systemctl is-system-running)" != degraded
echo "a kernel of its own: $(uname --release)"
