"""``python -m apply_opt``."""

import sys

from apply_opt.cli import main

sys.exit(main())
