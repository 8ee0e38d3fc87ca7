#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every way to end, through the launcher alone, on cgroup version 2.
set -eu

systemctl start clupy-launcher.service
python3 /src/tests/lab/core/launcher_reasons.py 20 --width 4

# A journald that gets little time takes lines long before it stores them: the unit's fields are to be there still.
systemctl set-property --runtime systemd-journald.service CPUQuota=3%
python3 /src/tests/lab/core/launcher_reasons.py 15 exit return --width 4
