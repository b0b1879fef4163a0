"""User errors, and the look-up that raises the most common one.

Every class here derives from ``UserError``, itself a ``ValueError``: the command line prints its
message without a traceback and exits with status 2 (1 for a ``WriteError``). Any other exception
is a bug.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import os
import shlex
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

T = TypeVar("T")


class UserError(ValueError):
    """Invalid input. The message has the place, the value, the allowed values, and the remedy.

    Attributes:
        problems: each problem as a record, where the message lists several.
        exit_status: of the command.
    """

    problems: tuple[Any, ...] = ()
    exit_status = 2


class ConfigError(UserError):
    """A config file, an override or a command-line value that cannot be used."""


class FileError(UserError):
    """A file or folder that cannot be used.

    Attributes:
        reason: without the path.
        path: of what cannot be used; None where it is not one file.
    """

    def __init__(self, reason: str, path: str | os.PathLike[str] | None = None) -> None:
        super().__init__(reason if path is None else f"{path}: {reason}")
        self.reason = reason
        self.path = None if path is None else str(path)


class WriteError(FileError, OSError):
    """A file that cannot be written: no space, no quota, a read-only disk. Made by ``writing``."""

    exit_status = 1  # not an error in the input: a launcher may restart the ranks


_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMEDIES = {
    errno.ENOSPC: "Free space there",
    errno.EDQUOT: "Free space there, or get a larger quota",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f)",
}


def is_out_of_space(error: OSError) -> bool:
    """Return whether a disk, quota or limit is used up, or the disk is read-only."""
    return error.errno in (*_NO_SPACE, errno.EROFS)


@contextlib.contextmanager
def writing(
    path: str | os.PathLike[str], num_bytes: Callable[[], int] | None = None
) -> Iterator[None]:
    """Convert errors of the operating system inside to a ``WriteError``.

    Args:
        path: of the file to write.
        num_bytes: returns the size of the content; called where there is no space for it.

    Raises:
        WriteError: names the file, the bytes needed and free, what is safe, and the remedy.
    """
    try:
        yield
    except (WriteError, BrokenPipeError):
        raise
    except OSError as error:
        raise write_error(path, error, num_bytes) from error


def write_error(
    path: str | os.PathLike[str], error: OSError, num_bytes: Callable[[], int] | None = None
) -> WriteError:
    """Return the ``WriteError`` for an error of the operating system; see ``writing``."""
    sizes = [_free(Path(path))]
    if error.errno in _NO_SPACE and num_bytes is not None:
        sizes.insert(0, f"{num_bytes():,} bytes needed")
    remedy = _REMEDIES.get(error.errno or 0, "Make it writable, or choose another folder")
    reason = WriteError(
        f"cannot be written: {error.strerror or error} ({', '.join(filter(None, sizes))}). All "
        f"files and lines written before are complete. {remedy}; then the same command resumes",
        path,
    )
    reason.errno = error.errno
    return reason


def _free(path: Path) -> str:
    """Return the free space of the disk of a file that may not exist yet, as text."""
    folder = next((p for p in path.absolute().parents if p.is_dir()), Path("/"))
    try:
        disk = os.statvfs(folder)
    except OSError:
        return "the disk does not answer"
    if disk.f_files and not disk.f_favail:
        return "no further files (inodes) free on its disk"
    return f"{disk.f_bavail * disk.f_frsize:,} bytes free on its disk"


class ListError(FileError):
    """A list of videos that cannot be used; names the file and the lines."""


class DecodeError(FileError):
    """A video, frame folder or image that cannot be read; names the file and what was read.

    Attributes:
        failures: a ``FailedVideo`` for each, where several in a row could not be read.
    """

    failures: tuple[Any, ...] = ()

    def reason_of(self, *names: str | os.PathLike[str]) -> str:
        """Return the reason, with the path unless it is one of these names."""
        return self.reason if self.path in tuple(map(str, names)) else str(self)


class PixelsError(UserError):
    """Pixels that a model cannot take: another shape, dtype, device, or no tensor at all."""


class WeightsError(UserError):
    """A checkpoint or weights file that cannot be read or does not fit the model."""


class ExportError(UserError):
    """An exported file whose outputs differ from those of its model."""


class ResumeError(WeightsError):
    """A checkpoint that this run cannot resume from."""


class ShardedCheckpointError(WeightsError):
    """A checkpoint in a folder of torch.distributed.checkpoint, as earlier versions wrote them.

    Attributes:
        folder: the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def __str__(self) -> str:
        folder, file = shlex.quote(f"{self.folder}"), shlex.quote(f"{self.folder}.pth")
        return (
            f"{self.folder}: a sharded checkpoint (torch.distributed.checkpoint), which is no "
            "longer read. PyTorch converts it to one file, whose tensors are named model/..., "
            "optimizer/... and ema/...; the second command keeps only the weights, without "
            "model/. The file then fits TRAIN.CHECKPOINT_FILE_PATH and TEST.CHECKPOINT_FILE_PATH:\n"
            "  python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
            f"{folder} {file}\n"
            '  python -c "import sys, torch; path = sys.argv[1]; state = torch.load(path); '
            "torch.save({name[6:]: tensor for name, tensor in state.items() "
            f"if name.startswith('model/')}}, path)\" {file}\n"
            "To resume from the checkpoint before it, delete the folder"
        )


class MissingViewsError(UserError):
    """Scores in which a view of a video is missing or duplicate; they are not averaged."""


class RankLost(Exception):
    """Another rank has failed, hangs or never joined; this one ends for that reason alone."""


class Stopped(Exception):
    """A run was stopped by a signal, and has saved a checkpoint from which it can resume.

    Attributes:
        signal_number: of the signal; the exit status of the program is 128 more.
        is_logged: the log of the run has a line about it.
    """

    is_logged = False

    def __init__(self, signal_number: int) -> None:
        name = signal.Signals(signal_number).name
        by = "Ctrl-C" if name == "SIGINT" else name
        super().__init__(f"stopped by {by}, and saved: the same command resumes from here")
        self.signal_number = signal_number


def printable(text: str) -> str:
    """Return a text with control characters as ``\\x1b`` or so; line ends stay."""
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice with the spelling nearest to ``word``, or None if none is close."""
    by_folded = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(word.lower(), list(by_folded), n=1, cutoff=0.6)
    return by_folded[matches[0]] if matches else None


def in_one_message(where: str, problems: Iterable[str], *, limit: int | None = None) -> str:
    """Return a headline with the number of problems, then the first problems, one a line."""
    return f"{where}: {as_lines(problems, limit=limit)}"


def as_lines(problems: Iterable[str], *, limit: int | None = None) -> str:
    """Return the number of problems, then the first problems, one a line."""
    problems = list(problems)
    shown = problems[:limit]
    if len(shown) < len(problems):
        shown.append(f"and {len(problems) - len(shown):,} more")
    count = "1 problem" if len(problems) == 1 else f"{len(problems):,} problems"
    return "\n".join([count, *(f"  {problem}" for problem in shown)])


def pick(table: Mapping[str, T], name: str, what: str) -> T:
    """Look ``name`` up in ``table``, or import it when it is written ``package.module:name``.

    Args:
        table: the entries of this project, by name.
        name: of the requested entry.
        what: the kind of entry, for the message ("decoder", "data set").

    Raises:
        ConfigError: there is no such entry; the message lists the names, and the nearest one.
    """
    if name in table:
        return table[name]
    if ":" in name:
        return cast(T, _import_from_outside(name, what))
    guess = nearest(name, table)
    hint = f" Did you mean {guess!r}?" if guess else ""
    raise ConfigError(
        f"there is no {what} named {name!r}.{hint} Choose from: {', '.join(sorted(table))}, "
        "or name your own as package.module:name"
    )


def _import_from_outside(name: str, what: str) -> Any:
    module_name, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"the {what} {name!r} could not be imported: {error}") from error
