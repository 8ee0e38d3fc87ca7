# SPDX-License-Identifier: Apache-2.0
"""The version of the package; the hello tells it to the master."""

VERSION = "0.1.0"
