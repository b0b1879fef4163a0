"""The parts into which machines divide the files of a job, by the names of the files."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slowfast_mvit.errors import UserError

_PART_NAME = re.compile(r"\.shard-([0-9]+)-of-([0-9]+)\.jsonl")


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of the ``count`` parts into which machines divide the work.

    A file belongs to the part that its name's checksum names, whatever the order of the list.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/N``, i from 0 to N - 1.

        Raises:
            UserError: when it is not of this form.
        """
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", text.strip())
        if not found or int(found[1]) >= int(found[2]):
            raise UserError(
                f"--shard {text}: expected i/N with i from 0 to N - 1, such as 0/8 for the first "
                "of eight parts"
            )
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Shard:
        """The part of a task of a Slurm array; the whole outside of one.

        Raises:
            UserError: when the array does not count from 0 in steps of 1. ``--array=0,5`` may mean
                two parts, or two of many that are to run again.
        """
        task = environment.get("SLURM_ARRAY_TASK_ID")
        if task is None:
            return cls()
        count = environment.get("SLURM_ARRAY_TASK_COUNT", "")
        first = environment.get("SLURM_ARRAY_TASK_MIN", "0")
        last = environment.get("SLURM_ARRAY_TASK_MAX", "0")
        numbers = [int(text) if text.isdigit() else -1 for text in (count, first, task, last)]
        if numbers[1] != 0 or max(numbers[2:]) >= numbers[0]:
            raise UserError(
                f"SLURM_ARRAY_TASK_ID is {task} of {count or 'an unknown number of'} tasks from "
                f"{first}: submit the array as --array=0-<N-1>, or say which part of how "
                "many this is, as --shard $SLURM_ARRAY_TASK_ID/<N>"
            )
        return cls(int(task), int(count))

    def takes(self, name: str) -> bool:
        """Return whether the file of this name belongs to this part."""
        return zlib.crc32(encoded(name)) % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


WHOLE = Shard()


def part_path(out: Path, shard: Shard) -> Path:
    """``records.jsonl`` -> ``records.shard-0-of-8.jsonl``."""
    return out.with_name(f"{out.stem}.shard-{shard.index}-of-{shard.count}.jsonl")


def parts_of(out: Path) -> list[Path]:
    """The journals beside ``out``, of any division, by name.

    Raises:
        UserError: when there are none.
    """
    paths = [
        path
        for path in sorted(out.parent.glob("*.jsonl"))
        if path.name.startswith(out.stem) and _PART_NAME.fullmatch(path.name[len(out.stem) :])
    ]
    if not paths:
        raise UserError(f"{out}: no parts beside it, {part_path(out, Shard()).name} for example")
    return paths


def encoded(name: str) -> bytes:
    """The bytes of a file name, also of one that is not UTF-8."""
    return name.encode("utf-8", "surrogateescape")
