"""`python -m mirkit` is the command `mirkit`."""

import sys

from mirkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
