"""Remote files, through iopath: fetching, and a remote ``OUTPUT_DIR``.

http, https and ftp are built in, s3 where boto3 is installed. Anything else is a subclass of
``iopath.common.file_io.PathHandler``, registered by name (the key ``PATH_HANDLERS``).

With a remote ``OUTPUT_DIR``, loops and reports write to a local folder. With each file that is
written atomically, all changes since then are uploaded (logs grow line by line), so that after a
crash the remote folder contains all finished files. Files that were uploaded or fetched and are
deleted locally are deleted there.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from iopath.common.file_io import HTTPURLHandler, PathHandler, PathManager, get_cache_dir

from slowfast_mvit.errors import ConfigError, UserError, pick

_log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 60.0
_CHECKPOINT_FOLDER = "checkpoints"
_NUM_FETCHED_CHECKPOINTS = 2  # the newest, and one as a fallback if it is damaged

_REMOTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")

_prefixes: set[str] = set()  # of the registered handlers: "http://", ...


class _WebHandler(HTTPURLHandler):
    """iopath's handler, with a cache folder for each server."""

    def _get_local_path(
        self, path: str, force: bool = False, cache_dir: str | None = None, **kwargs: Any
    ) -> str:
        host = re.sub(r"[^\w.-]", "_", urlparse(path).netloc)
        folder = Path(get_cache_dir(cache_dir)) / "slowfast_mvit" / host
        fetch = super()._get_local_path
        if not force:
            return str(fetch(path, cache_dir=str(folder), **kwargs))
        # iopath does not overwrite a file, and another process may be reading it
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            new = Path(fetch(path, force=True, cache_dir=fresh, **kwargs))
            cached = folder / new.relative_to(fresh)
            cached.parent.mkdir(parents=True, exist_ok=True)
            os.replace(new, cached)
        self.cache_map[path] = str(cached)
        return str(cached)


@functools.cache
def path_manager() -> PathManager:
    """Return the iopath manager of this process."""
    manager = PathManager()
    _register(manager, _WebHandler())
    if importlib.util.find_spec("boto3"):  # iopath's module imports without it, and fails later
        from iopath.common.s3 import S3PathHandler

        _register(manager, S3PathHandler())
    return manager


def _register(manager: PathManager, handler: PathHandler) -> None:
    manager.register_handler(handler, allow_override=True)
    _prefixes.update(handler._get_supported_prefixes())


def register_path_handlers(names: Iterable[str]) -> None:
    """Register further kinds of remote paths.

    Args:
        names: ``package.module:name`` of subclasses of ``iopath.common.file_io.PathHandler``.

    Raises:
        ConfigError: when one cannot be imported or is not such a subclass.
    """
    for name in names:
        handler: object = pick({}, name, "path handler")
        if not (isinstance(handler, type) and issubclass(handler, PathHandler)):
            raise ConfigError(
                f"PATH_HANDLERS: {name} is not a subclass of iopath.common.file_io.PathHandler"
            )
        _register(path_manager(), handler())


def is_remote(path: str | Path) -> bool:
    """Return whether a path names a protocol, like ``https://host/file``."""
    return _REMOTE.match(str(path)) is not None


def local_copy(path: str | Path, *, fresh: bool = False) -> Path:
    """Return a local file with the content of ``path``: itself if it is local, or a cached copy.

    Args:
        path: local, or anything that iopath can read.
        fresh: fetch it again even if a copy is in the cache ($FVCORE_CACHE, or
            ``~/.torch/iopath_cache``): for files that change under the same name, such as lists.

    Raises:
        UserError: when it cannot be fetched.
    """
    if not is_remote(path):
        return Path(path)
    url = str(path)
    require_handler(url)
    timeout_s = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_TIMEOUT_S)
    try:
        return Path(path_manager().get_local_path(url, force=fresh))
    except Exception as error:  # a handler may raise whatever its library raises
        raise UserError(
            f"{url}: cannot be fetched ({type(error).__name__}: {error}). Check the address and "
            "the connection, or copy it to a local folder"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout_s)


def require_handler(url: str) -> None:
    """Refuse a protocol without handler, which iopath would treat as a local file.

    Raises:
        ConfigError: names the known protocols.
    """
    path_manager()
    if not url.startswith(tuple(_prefixes)):
        raise ConfigError(
            f"{url}: no handler for {url.split('://', 1)[0]}://. Known are "
            f"{', '.join(sorted(_prefixes))} (s3:// where boto3 is installed); set PATH_HANDLERS "
            "to your iopath PathHandler as package.module:name, or use a local path"
        )


# A remote OUTPUT_DIR


class _Mirror:
    """A local folder and the remote one that follows it.

    Args:
        parent: of the local folder, whose name is that of the remote one: reports show it.
        url: remote.
    """

    def __init__(self, parent: Path, url: str) -> None:
        self.url = url.rstrip("/")
        self.folder = parent / self.url.rpartition("/")[2]
        self._sent: dict[Path, tuple[int, int]] = {}

    def fetch(self) -> None:
        """Download the remote folder, but only the newest checkpoints.

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
        for name in [name for name in names if name not in old]:
            if manager.isdir(f"{url}/{name}"):
                self._fetch_folder(f"{url}/{name}", folder / name)
            else:
                shutil.copyfile(manager.get_local_path(f"{url}/{name}", force=True), folder / name)

    def send(self) -> str:
        """Upload changed files; failed uploads are tried again next time.

        Returns:
            The failed uploads and their reasons; "" if there are none.
        """
        deleted = [path for path in self._sent if not path.is_file()]
        for path in deleted:
            del self._sent[path]
        not_removed = self._for_each(deleted, lambda path, url: path_manager().rm(url))
        if not_removed:  # some handlers cannot remove anything
            _log.warning(
                "OUTPUT_DIR %s: no longer needed and not removed there, delete it by hand: %s",
                self.url,
                not_removed,
            )
        changed = [path for path in self._files() if self._sent.get(path) != _state(path)]
        return self._for_each(changed, self._upload)

    def _for_each(self, paths: Iterable[Path], action: Callable[[Path, str], object]) -> str:
        """Call ``action`` with each path and its URL; return the failures."""
        problems = []
        for path in paths:
            name = path.relative_to(self.folder).as_posix()
            try:
                action(path, f"{self.url}/{name}")
            except Exception as error:  # a run of days must not end with a lost connection
                problems.append(f"{name} ({type(error).__name__}: {error})")
        return ", ".join(problems)

    def _upload(self, path: Path, url: str) -> None:
        state = _state(path)
        path_manager().mkdirs(url.rpartition("/")[0])
        path_manager().copy_from_local(str(path), url, overwrite=True)
        self._sent[path] = state

    def _files(self) -> list[Path]:
        """Return all finished files."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(
            path for path in files if "/.tmp-" not in f"/{path.relative_to(self.folder).as_posix()}"
        )


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


_mirrors: list[_Mirror] = []


@contextlib.contextmanager
def output_folder(path: str | Path) -> Iterator[Path]:
    """Yield the local folder to write to for an ``OUTPUT_DIR``.

    Args:
        path: local (then it is yielded), or anything that iopath can write to: then a temporary
            folder that starts with the remote files, and is uploaded as it changes and at the end.

    Raises:
        UserError: the remote folder cannot be used; or, at the end, something could not be
            uploaded: the message names the local folder that contains it.
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
        if unsent := _end(mirror):
            _log.error(unsent)  # the reason why the run ended matters more
        raise
    if unsent := _end(mirror):
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
    """Yield one ``output_folder``, of the main process, to all processes of a run.

    Args:
        path: as for ``output_folder``.
        is_main: whether this is the main process.
        num_nodes: nodes of the run.
        from_main: broadcasts the value of the main process.
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


def _end(mirror: _Mirror) -> str:
    """Upload the rest and remove the local folder; return the problem if that fails."""
    _mirrors.remove(mirror)
    unsent = mirror.send()
    if not unsent:
        shutil.rmtree(mirror.folder.parent)
        return ""
    return (
        f"OUTPUT_DIR {mirror.url}: not sent: {unsent}. The files are kept in "
        f"{mirror.folder}: copy them by hand"
    )


def upload_changes(written: Path) -> None:
    """Upload the changes of the output folder that contains ``written``, if it has a remote.

    A failure is a warning: the next call tries again.
    """
    for mirror in _mirrors:
        if mirror.folder in written.parents and (unsent := mirror.send()):
            _log.warning(
                "OUTPUT_DIR %s: not sent, tried again with the next file: %s", mirror.url, unsent
            )
