"""``python -m slowfast_mvit``: the same as ``slowfast-mvit``."""

import sys

from slowfast_mvit.cli import main

if __name__ == "__main__":
    sys.exit(main())
