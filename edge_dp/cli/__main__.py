"""``python -m edge_dp.cli``: the command line without the installed script."""

import sys

from edge_dp.cli import main

sys.exit(main())
