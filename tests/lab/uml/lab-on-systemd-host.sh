#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The lab on the other kind of host: PID 1 is systemd and the cgroups are unified, so a node lives in a scope that the
# host's systemd has delegated.
set -eu

lab() {
        /src/lab "$@" 2>&1
}

lab up --name inner --agents 0 --no-build
systemctl is-active lab-inner-master.scope lab-inner-client.scope
test "$(lab exec --name inner client -- cat /proc/1/comm)" = systemd
test "$(lab exec --name inner client -- stat --file-system --format=%T /sys/fs/cgroup)" = cgroup2fs
lab exec --name inner client -- systemd-run --quiet --scope --unit=limited.scope --property=MemoryMax=50M -- \
        grep -x 52428800 /sys/fs/cgroup/system.slice/limited.scope/memory.max
lab crash --name inner client
lab start --name inner client
lab status --name inner
lab down --name inner
test ! -e /run/clupy-lab/inner
test -z "$(find /sys/fs/cgroup -name 'lab-inner-*')"
