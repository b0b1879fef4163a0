"""An argument parser whose errors name the nearest word that exists."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from slowfast_mvit.errors import nearest, printable


class Parser(argparse.ArgumentParser):
    """Reports an unknown option or command before what is missing, with the nearest that exists."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> Any:
        """Check the options of a command, and parse its arguments."""
        words = sys.argv[1:] if args is None else list(args)
        is_leaf = not any(
            isinstance(action.nargs, str) and action.nargs in (argparse.PARSER, argparse.REMAINDER)
            for action in self._get_positional_actions()
        )
        options = list(self._option_string_actions)
        for word in words[: words.index("--") if "--" in words else None]:
            name = word.partition("=")[0]
            if is_leaf and re.fullmatch(r"--[\w-]+", name) and not _begins_one(name, options):
                self.error(f"there is no option {name}{_hint(name, options)}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the usage and a message, and exit with status 2."""
        unknown = re.match(r"argument COMMAND: invalid choice: (['\"])(.*?)\1 \(", message)
        if unknown:
            choices = self._subparsers._group_actions[0].choices if self._subparsers else None
            names = list(choices or ())
            message = f"there is no command {unknown[2]!r}{_hint(unknown[2], names)}"
            message += f" Choose from: {', '.join(names)}"
        super().error(printable(message))


def _begins_one(name: str, options: Sequence[str]) -> bool:
    return any(option.startswith(name) for option in options)


def _hint(word: str, choices: Sequence[str]) -> str:
    guess = nearest(word, choices)
    return f". Did you mean {guess}?" if guess else "."
