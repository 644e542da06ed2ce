"""`python -m knotjax` is the same as the `knotjax` command."""

import sys

from knotjax.cli import main

if __name__ == "__main__":
    sys.exit(main())
