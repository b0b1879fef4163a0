"""One writer for each kind of file in OUTPUT_DIR: a lock with a heartbeat, for shared file systems.

A lock is a file ``.lock-<writer>.<generation>``. Creating a file is atomic on network file systems
too, so of several processes that see one dead lock, one creates the next generation; the file with
the highest generation is the lock. Files are not deleted before there is a newer one, so that
generations only grow.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from slowfast_mvit.errors import UserError, writing

HEARTBEAT_S = 10.0
DEAD_AFTER_S = 60.0

# Variables that are the same for all attempts of one job of a scheduler or launcher, unless they
# have the name that the launchers give every run.
_UNNAMED = ("none", "slowfast_mvit")
_JOB_VARIABLES = ("SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID", "TORCHELASTIC_RUN_ID", "RAY_JOB_ID")

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)  # exFAT, and buckets that are mounted


class OutputInUse(UserError):
    """Another process writes, or has taken over the writing of, the same files."""


@dataclass(frozen=True)
class Owner:
    """The process that has a lock.

    Attributes:
        host: its host name.
        pid: its process id.
        machine: boot and process namespace in which the id has a meaning; empty where unknown.
        process_start: start of the process in the clock ticks of its machine.
        started: local time of the start, for messages.
        job: of a scheduler, or empty.
        is_released: the process has finished its work.
    """

    host: str
    pid: int
    machine: str
    process_start: str
    started: str
    job: str
    is_released: bool = False

    @classmethod
    def this_process(cls, environment: Mapping[str, str] = os.environ) -> Owner:
        """Describe the calling process."""
        jobs = [
            f"{name}={environment[name]}"
            for name in _JOB_VARIABLES
            if environment.get(name, "none") not in _UNNAMED
        ]
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=_machine(),
            process_start=_process_start(os.getpid()),
            started=time.strftime("%Y-%m-%d %H:%M:%S"),
            job=jobs[0] if jobs else "",
        )

    def is_dead(self, silent_s: float) -> bool:
        """Return whether the lock of this owner may be taken.

        Args:
            silent_s: seconds since its last heartbeat.
        """
        if self.is_released:
            return True
        if self.machine and self.machine == _machine():
            return _process_start(self.pid) != self.process_start
        if self.job and self.job == Owner.this_process().job:
            return True
        return silent_s > DEAD_AFTER_S


class OutputLock:
    """A lock that this process has; made by ``output_lock``."""

    def __init__(self, path: Path, owner: Owner) -> None:
        self._path = path
        self._owner = owner
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="output lock", daemon=True)
        self._thread.start()

    def require(self) -> None:
        """Make sure that the lock is still this process's, before it publishes a file.

        Raises:
            OutputInUse: another process has taken over.
        """
        newest = _newest(self._path.parent, _writer_of(self._path))
        if newest is not None and newest != self._path:
            raise OutputInUse(
                f"OUTPUT_DIR {self._path.parent}: {_as_text(_read(newest))} has taken over from "
                "this process, which stops without writing. Stop one of the two"
            )

    def release(self) -> None:
        """End the heartbeat and release the lock."""
        self._is_done.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # the folder may be gone, and the work is done
            temporary = _temporary(self._path.parent)
            try:
                temporary.write_text(json.dumps({**asdict(self._owner), "is_released": True}))
                os.replace(temporary, self._path)
            except OSError:  # no space: an empty lock without a heartbeat is a free one
                temporary.unlink(missing_ok=True)
                os.truncate(self._path, 0)
                os.utime(self._path, (0, 0))

    def _beat(self) -> None:
        while not self._is_done.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):  # a file server may be away for a moment
                os.utime(self._path)


@contextlib.contextmanager
def output_lock(folder: Path, writer: str, *, takeover: bool = False) -> Iterator[OutputLock]:
    """Have the only process that writes some files of a folder.

    Args:
        folder: OUTPUT_DIR; made if it is missing.
        writer: the kind of files, such as "train" or "test-part-0".
        takeover: take the lock from a process that seems alive.

    Raises:
        OutputInUse: another process has the lock; names its host, process and start.
    """
    with writing(folder / f".lock-{writer}"):
        lock = _acquire(folder, writer, takeover)
    try:
        yield lock
    finally:
        lock.release()


def require_free(folder: Path, writer: str) -> Path | None:
    """Make sure that no live process has a lock; returns the file of a dead one, if there is one.

    Raises:
        OutputInUse: another process has the lock; names its host, process and start.
    """
    newest = _newest(folder, writer) if folder.is_dir() else None
    if newest is None:
        return None
    with writing(newest):
        other, silent_s = _read(newest), _silent_s(newest)
    if silent_s > DEAD_AFTER_S if other is None else other.is_dead(silent_s):
        return newest
    raise OutputInUse(
        f"OUTPUT_DIR {folder} is in use: {_as_text(other)} writes to it. Stop that process or "
        "choose another OUTPUT_DIR; if you know that it has ended, add --takeover"
    )


def _acquire(folder: Path, writer: str, takeover: bool) -> OutputLock:
    folder.mkdir(parents=True, exist_ok=True)
    owner = Owner.this_process()
    while True:
        newest = _newest(folder, writer) if takeover else require_free(folder, writer)
        path = folder / f".lock-{writer}.{_generation(newest) + 1:06d}"
        if _create(path, json.dumps(asdict(owner))):
            if _newest(folder, writer) != path:  # two generations have passed since it was listed
                path.unlink()
                continue
            for old in _locks(folder, writer):
                if _generation(old) < _generation(path):
                    old.unlink(missing_ok=True)
            return OutputLock(path, owner)


def _create(path: Path, content: str) -> bool:
    """Create a file with its content, in one step where there are hard links.

    Returns:
        Whether it was not there before.
    """
    temporary = _temporary(path.parent)
    try:
        temporary.write_text(content)
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with open(path, "x") as file:  # read before it is written, it is of "another process"
                file.write(content)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _temporary(folder: Path) -> Path:
    """Return a new path that ``storage.remove_files_of_dead_processes`` knows."""
    return folder / f".tmp-{platform.node()}-{os.getpid()}-{secrets.token_hex(8)}"


def _locks(folder: Path, writer: str) -> list[Path]:
    pattern = re.compile(rf"\.lock-{re.escape(writer)}\.\d+")
    return sorted(folder / name for name in os.listdir(folder) if pattern.fullmatch(name))


def _newest(folder: Path, writer: str) -> Path | None:
    locks = _locks(folder, writer)
    return max(locks, key=_generation) if locks else None


def _generation(path: Path | None) -> int:
    return int(path.suffix[1:]) if path is not None else 0


def _writer_of(path: Path) -> str:
    return path.stem.removeprefix(".lock-")


def _read(path: Path) -> Owner | None:
    """The owner of a lock; None where the file is damaged or was replaced meanwhile."""
    try:
        return Owner(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _silent_s(path: Path) -> float:
    """Seconds since the last heartbeat, by the clock of the file system."""
    now = _temporary(path.parent)
    try:
        now.touch()
        return now.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:  # a newer generation has replaced it
        return 0.0
    finally:
        now.unlink(missing_ok=True)


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """The start of a process in clock ticks; empty where there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _as_text(owner: Owner | None) -> str:
    if owner is None:
        return "another process"
    return f"process {owner.pid} on {owner.host}, started {owner.started},"
