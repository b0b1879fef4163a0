"""Starting the processes of a run: torch's elastic agent, and Ray Train."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from slowfast_mvit.errors import ConfigError, nearest

# The commands that can run as several processes.
LAUNCHED = ("train", "test", "run_net", "finetune")


def rank_command(words: Sequence[str]) -> list[str]:
    """Return the command of a rank; unbuffered, as its last lines matter when it is killed.

    Args:
        words: of ``slowfast-mvit``, or a Python script and its arguments.

    Raises:
        ConfigError: the command cannot run as several processes.
    """
    if words and words[0].endswith(".py"):
        return [sys.executable, "-u", *words]
    if words and words[0] in LAUNCHED:
        return [sys.executable, "-u", "-m", "slowfast_mvit", *words]
    got = f"got {words[0]!r}" if words else "got nothing"
    guess = nearest(words[0], LAUNCHED) if words else None
    hint = f". Did you mean {guess}?" if guess else ""
    raise ConfigError(
        f"launch starts {', '.join(LAUNCHED)} or a Python script, as in "
        f"slowfast-mvit launch -- train --cfg FILE; {got}{hint}"
    )
