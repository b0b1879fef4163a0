"""The words of a command line that say which files to run and which keys to change."""

from __future__ import annotations

import re
from collections.abc import Sequence

from slowfast_mvit.config.read import SUFFIXES, Findings, Given, Place

COMMAND_LINE = Place("command line")
_ASSIGNMENT = re.compile(r"([A-Za-z_][\w.]*)=(.*)", re.DOTALL)


def split_cfg_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words after ``--cfg``: config files up to the first word that is not one, then the rest.

    >>> split_cfg_words(["a.yaml", "b.yml", "TRAIN.BATCH_SIZE", "4"])
    (['a.yaml', 'b.yml'], ['TRAIN.BATCH_SIZE', '4'])
    """
    words = list(words)
    count = next(
        (n for n, word in enumerate(words) if not word.lower().endswith(SUFFIXES)), len(words)
    )
    return words[:count], words[count:]


def read_overrides(words: Sequence[str], findings: Findings) -> dict[str, Given]:
    """``KEY VALUE`` and ``KEY=VALUE``, mixed as one likes; of a key given twice the last counts."""
    keys: dict[str, Given] = {}
    rest = [str(word) for word in words]
    while rest:
        word = rest.pop(0)
        assignment = _ASSIGNMENT.fullmatch(word)
        if assignment:
            name, text = assignment.groups()
        elif rest:
            name, text = word, rest.pop(0)
        else:
            findings.problem(COMMAND_LINE, f"{word}: has no value. Write KEY VALUE or KEY=VALUE")
            break
        keys[name] = Given(text, text, COMMAND_LINE)
    return keys
