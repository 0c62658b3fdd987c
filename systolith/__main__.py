"""`python -m systolith`: what the command `systolith` does."""

import sys

from systolith.cli import main

sys.exit(main())
