"""`python -m deepseek`: the command line without the installed script."""

import sys

from deepseek.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
