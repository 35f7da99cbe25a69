"""``python -m pdray``."""

import sys

from pdray.cli import main

sys.exit(main())
