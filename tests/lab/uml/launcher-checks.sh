#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What the launcher promises beside the reasons, on cgroup version 2.
set -eu

systemctl start clupy-launcher.service
python3 /src/tests/lab/core/launcher_checks.py
