"""The flag ``--trust-config`` of every command that reads configs."""

from __future__ import annotations

import argparse


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust-config``."""
    parser.add_argument(
        "--trust-config",
        action="store_true",
        help="let config files, also those inside weights and run folders, name code to import and "
        "addresses to fetch; only for configs that you trust as you trust a program",
    )
