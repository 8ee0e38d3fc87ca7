#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The launcher replaces itself, on cgroup version 2.
set -eu

systemctl start clupy-launcher.service
python3 /src/tests/lab/core/launcher_upgrade_checks.py everything_goes_on new_programs_make_new_zygotes
