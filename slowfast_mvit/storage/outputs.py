"""An ``OUTPUT_DIR`` that lies elsewhere: a local folder whose files are sent there as they change.

Loops and reports write to a folder of this machine and know nothing of it. Each file that is
written atomically takes with it whatever has changed since (logs grow line by line), so that after
a crash the remote folder holds all that was finished. What was sent or fetched and is deleted here
is deleted there.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from slowfast_mvit.errors import UserError
from slowfast_mvit.storage.remote import is_remote, path_manager, require_handler

_log = logging.getLogger(__name__)

_CHECKPOINT_FOLDER = "checkpoints"
_NUM_FETCHED_CHECKPOINTS = 2  # the newest, and one to fall back on if it is damaged


class _Mirror:
    """A local folder and the remote one that follows it.

    Args:
        parent: of the local folder, which is called like the remote one: reports show its name.
        url: remote.
    """

    def __init__(self, parent: Path, url: str) -> None:
        self.url = url.rstrip("/")
        self.folder = parent / self.url.rpartition("/")[2]
        self._sent: dict[Path, tuple[int, int]] = {}

    def fetch(self) -> None:
        """Copy down what is there, of the checkpoints the newest only.

        Raises:
            UserError: the remote folder can be neither read nor made.
        """
        try:
            path_manager().mkdirs(self.url)
            self._fetch_folder(self.url, self.folder)
        except Exception as error:  # a handler may raise whatever its library raises
            raise UserError(
                f"OUTPUT_DIR {self.url}: cannot be used to write to "
                f"({type(error).__name__}: {error}). Choose a folder that its handler can write"
            ) from error
        self._sent = {path: _state(path) for path in self._files()}

    def _fetch_folder(self, url: str, folder: Path) -> None:
        manager = path_manager()
        folder.mkdir(exist_ok=True)
        names = sorted(Path(name).name for name in manager.ls(url))
        numbered = [name for name in names if name.startswith("checkpoint")]
        old = numbered[:-_NUM_FETCHED_CHECKPOINTS] if folder.name == _CHECKPOINT_FOLDER else []
        for name in names:
            if name in old:
                continue
            if manager.isdir(f"{url}/{name}"):
                self._fetch_folder(f"{url}/{name}", folder / name)
            else:
                shutil.copyfile(manager.get_local_path(f"{url}/{name}", force=True), folder / name)

    def send(self) -> list[str]:
        """Send what has changed; what cannot be sent now is tried again next time.

        Returns:
            What could not be sent, and why.
        """
        self._remove_deleted()
        problems = []
        for path in self._files():
            state = _state(path)
            if self._sent.get(path) == state:
                continue
            name = path.relative_to(self.folder).as_posix()
            try:
                path_manager().mkdirs(f"{self.url}/{name}".rpartition("/")[0])
                path_manager().copy_from_local(str(path), f"{self.url}/{name}", overwrite=True)
                self._sent[path] = state
            except Exception as error:  # a run of days must not end with a lost connection
                problems.append(f"{name} ({type(error).__name__}: {error})")
        return problems

    def _remove_deleted(self) -> None:
        problems = []
        for path in [path for path in self._sent if not path.is_file()]:
            del self._sent[path]
            name = path.relative_to(self.folder).as_posix()
            try:
                path_manager().rm(f"{self.url}/{name}")
            except Exception as error:  # as in ``send``; some handlers cannot remove anything
                problems.append(f"{name} ({type(error).__name__}: {error})")
        if problems:
            _log.warning(
                "OUTPUT_DIR %s: no longer needed and not removed there, delete it by hand: %s",
                self.url,
                ", ".join(problems),
            )

    def _files(self) -> list[Path]:
        return sorted(
            path
            for path in self.folder.rglob("*")
            if path.is_file() and not _is_unfinished(path.relative_to(self.folder))
        )


_mirrors: list[_Mirror] = []


@contextlib.contextmanager
def output_folder(path: str | Path) -> Iterator[Path]:
    """The local folder to write to for an ``OUTPUT_DIR``.

    Args:
        path: local (then it is given back), or anything that iopath can write to: then a temporary
            folder that begins with what is there, and is sent there as it changes and at the end.

    Raises:
        UserError: the remote folder cannot be used; or, at the end, something could not be sent:
            the message says where it is kept.
    """
    if not is_remote(path):
        yield Path(path)
        return
    require_handler(str(path))
    mirror = _Mirror(Path(tempfile.mkdtemp(prefix="slowfast_mvit-")), str(path))
    try:
        mirror.fetch()
    except UserError:
        shutil.rmtree(mirror.folder.parent)
        raise
    _mirrors.append(mirror)
    try:
        yield mirror.folder
    except BaseException:
        unsent = _end(mirror)
        if unsent:
            _log.error(unsent)  # the reason why the run ended matters more
        raise
    unsent = _end(mirror)
    if unsent:
        raise UserError(unsent)


@contextlib.contextmanager
def shared_output_folder(
    path: str | Path,
    *,
    is_main: bool,
    num_nodes: int,
    from_main: Callable[[tuple[str, str]], tuple[str, str]],
    wait_for_all: Callable[[str], None],
) -> Iterator[Path]:
    """``output_folder`` for all processes of a run: the main one keeps it, the others write to it.

    Args:
        path: as for ``output_folder``.
        is_main: whether this is the main process.
        num_nodes: nodes of the run.
        from_main: gives every process what the main one passes.
        wait_for_all: returns when every process has called it.

    Raises:
        UserError: on every process, where the remote folder cannot be used, or the run has several
            nodes, which share no local folder.
    """
    if not is_remote(path):
        yield Path(path)
        return
    if num_nodes > 1:
        raise UserError(
            f"OUTPUT_DIR {path}: the {num_nodes} nodes of this run have no folder in common to "
            "collect files in. Choose a folder on a disk that all nodes share, and copy it there "
            "when the run is done"
        )
    with contextlib.ExitStack() as stack:
        folder, problem = "", ""
        if is_main:
            try:
                folder = str(stack.enter_context(output_folder(path)))
            except UserError as error:
                problem = str(error)
        folder, problem = from_main((folder, problem))
        if problem:
            raise UserError(problem)
        yield Path(folder)
        wait_for_all("the last file for OUTPUT_DIR")


def _end(mirror: _Mirror) -> str | None:
    """Send the rest and remove the local folder, or keep it and say in words what is in it."""
    _mirrors.remove(mirror)
    problems = mirror.send()
    if not problems:
        shutil.rmtree(mirror.folder.parent)
        return None
    return (
        f"OUTPUT_DIR {mirror.url}: not sent: {', '.join(problems)}. The files are kept in "
        f"{mirror.folder}: copy them by hand"
    )


def upload_changes(written: Path) -> None:
    """Send what has changed in the output folder that ``written`` belongs to, if it has a remote.

    A failure is a warning: the next call tries again.
    """
    for mirror in _mirrors:
        if mirror.folder in written.parents:
            problems = mirror.send()
            if problems:
                _log.warning(
                    "OUTPUT_DIR %s: not sent, tried again with the next file: %s",
                    mirror.url,
                    ", ".join(problems),
                )


def _is_unfinished(path: Path) -> bool:
    return any(name.startswith(".tmp-") for name in path.parts)


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
