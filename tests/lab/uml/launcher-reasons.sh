#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every way to end, through the launcher alone, on cgroup version 2.
set -eu

systemctl start clupy-launcher.service
python3 /src/tests/lab/core/launcher_reasons.py 20 --width 4
