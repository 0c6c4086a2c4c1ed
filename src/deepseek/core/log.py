"""Logging to standard error, quiet unless asked."""

import logging
import sys

LOGGER = logging.getLogger("deepseek")


def set_up(verbose: bool) -> None:
    """Send the package's log to stderr: warnings always, details with `--verbose`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(logging.INFO if verbose else logging.WARNING)
    LOGGER.propagate = False
