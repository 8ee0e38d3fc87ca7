# SPDX-License-Identifier: Apache-2.0
"""The lab: a cluster of real systemd nodes on one machine, and what runs in it."""
