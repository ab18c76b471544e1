"""`python -m genarm_hf.cli`: the command where the script is not on the path."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
