# SPDX-License-Identifier: Apache-2.0
"""python -m clupy"""

import sys

from ._daemons import main

sys.exit(main(sys.argv[1:]))
