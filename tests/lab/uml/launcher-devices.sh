#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A task's devices, on cgroup version 2.
set -eu

systemctl start clupy-launcher.service
python3 /src/tests/lab/env/device_checks.py
