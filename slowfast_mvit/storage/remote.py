"""Files that lie elsewhere, fetched through iopath.

http, https and ftp are built in, s3 where boto3 is installed. Anything else is a subclass of
``iopath.common.file_io.PathHandler``, registered by name (the key ``PATH_HANDLERS``).
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import re
import socket
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from iopath.common.file_io import HTTPURLHandler, PathHandler, PathManager, get_cache_dir

from slowfast_mvit.errors import ConfigError, UserError, pick

CONNECT_TIMEOUT_S = 60.0  # without an answer for so long, a server counts as gone

_REMOTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")

_prefixes: set[str] = set()  # what the registered handlers read: "http://", ...


class _WebHandler(HTTPURLHandler):
    """iopath's own, but files of two servers do not share a place in the cache."""

    def _get_local_path(
        self, path: str, force: bool = False, cache_dir: str | None = None, **kwargs: Any
    ) -> str:
        host = re.sub(r"[^\w.-]", "_", urlparse(path).netloc)
        folder = Path(get_cache_dir(cache_dir)) / "slowfast_mvit" / host
        fetch = super()._get_local_path
        if not force:
            return str(fetch(path, cache_dir=str(folder), **kwargs))
        # iopath does not download over a file that is there, and another process may be reading it
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
    """The one iopath manager of this process."""
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
    """Make further kinds of remote paths known.

    Args:
        names: ``package.module:name`` of subclasses of ``iopath.common.file_io.PathHandler``.

    Raises:
        ConfigError: when one cannot be imported or is none.
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
    """A local file with the content of ``path``: itself where it is local, else a cached copy.

    Args:
        path: local, or anything that iopath reaches.
        fresh: fetch it again even if a copy is in the cache ($FVCORE_CACHE, or
            ``~/.torch/iopath_cache``): for files that change under the same name, such as lists.

    Raises:
        UserError: when it cannot be fetched.
    """
    if not is_remote(path):
        return Path(path)
    url = str(path)
    require_handler(url)
    try:
        with _socket_timeout(CONNECT_TIMEOUT_S):
            return Path(path_manager().get_local_path(url, force=fresh))
    except Exception as error:  # a handler may raise whatever its library raises
        raise UserError(
            f"{url}: cannot be fetched ({type(error).__name__}: {error}). Check the address and "
            "the connection, or copy it to a local folder"
        ) from error


def require_handler(url: str) -> None:
    """Refuse a protocol that no handler knows: iopath would take it for a local file.

    Raises:
        ConfigError: says what to do.
    """
    path_manager()
    if not url.startswith(tuple(_prefixes)):
        raise ConfigError(
            f"{url}: nothing here reads {url.split('://', 1)[0]}://. Known are "
            f"{', '.join(sorted(_prefixes))} (s3:// where boto3 is installed); set PATH_HANDLERS "
            "to your iopath PathHandler as package.module:name, or use a local path"
        )


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
