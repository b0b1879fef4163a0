"""Problems of annotations as records, so that no caller has to read their wording."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from slowfast_mvit.errors import ListError, UserError, in_one_message

T = TypeVar("T")

SHOWN_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in an annotation that cannot be used.

    Attributes:
        file: the annotation file, or the folder.
        line: of the file, or the number of the entry, from 1; 0 where there is none.
        kind: "text", "columns", "path", "id", "time", "split", "label" (it is missing or wrong),
            "class" (it is not among the classes), "duplicate", "frames", "spelling" (two classes
            that differ in nothing else), "outside" (of the class folders) or "empty" (a class).
        message: what was found, what is allowed and what to do.
        unit: "line", or "entry" in JSON.
    """

    file: str
    line: int
    kind: str
    message: str
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.unit} {self.line}: {self.message}" if self.line else self.message


def raise_problems(problems: Iterable[Problem], error: type[UserError] = ListError) -> None:
    """Raise one error for all problems of a file, the first twenty written out.

    Args:
        problems: none, or those of one file or folder.
        error: its ``problems`` are all of them, in the order of the lines.
    """
    ordered = sorted(problems, key=lambda problem: problem.line)
    if ordered:
        message = in_one_message(ordered[0].file, map(str, ordered), limit=SHOWN_PROBLEMS)
        raised = error(message)
        raised.problems = tuple(ordered)
        raise raised


def without_problems(rows: Iterable[T | Problem], problems: list[Problem]) -> Iterator[T]:
    """The rows that can be used; the problems between them are added to ``problems``."""
    for row in rows:
        if isinstance(row, Problem):
            problems.append(row)
        else:
            yield row


def not_readable(file: str | Path, error: OSError) -> ListError:
    """The error for a file or folder that exists and cannot be read."""
    return ListError(f"{file}: cannot be read ({error.strerror})")
