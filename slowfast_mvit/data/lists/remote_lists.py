"""Remote lists: fetched through iopath for as long as they are read."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.error import HTTPError, URLError

from slowfast_mvit.errors import ConfigError, ListError, UserError
from slowfast_mvit.storage import is_remote, local_copy

_HTTP_BUSY = (408, 425, 429)  # and 5xx: not known whether the file exists

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def local_lists(
    folder: str | Path, files: Sequence[str]
) -> Iterator[tuple[Path, Callable[[str], str]]]:
    """A local folder with the lists of ``folder``: itself where it is local.

    Args:
        folder: local, or anything that iopath reaches.
        files: names that a list may have; those that ``folder`` contains are fetched.

    Yields:
        The local folder, which is deleted with the ``with`` statement if it was fetched, and a
        function that gives the address of a path in it. The path of a ``ListError`` from inside the
        statement becomes its address.

    Raises:
        UserError: nothing could be fetched; or the connection failed, which says nothing of whether
            a file is there.
        ConfigError: there is no handler for such an address.
    """
    if not is_remote(folder):
        yield Path(folder), str
        return
    address = str(folder).rstrip("/")
    if not is_remote(address):
        raise ConfigError(f"DATA.PATH_TO_DATA_DIR is {folder}, which names no folder")
    with tempfile.TemporaryDirectory(prefix="lists-") as temporary:
        with _without_errors("iopath"):
            _fetch(address, files, Path(temporary))

        def address_of(path: str) -> str:
            if not Path(path).is_relative_to(temporary):
                return path
            return "/".join((address, *Path(path).relative_to(temporary).parts))

        try:
            yield Path(temporary), address_of
        except ListError as error:
            raise ListError(error.reason, error.path and address_of(error.path)) from None


def _fetch(address: str, files: Sequence[str], into: Path) -> None:
    failures: list[UserError] = []
    for name in files:
        try:
            shutil.copyfile(local_copy(f"{address}/{name}", fresh=True), into / name)
        except ConfigError:
            raise
        except UserError as error:  # most of these files do not exist, and need not
            if _is_unreachable(error.__cause__):
                raise
            failures.append(error)
    if len(failures) == len(files):
        raise failures[0]
    found = sorted(file.name for file in into.iterdir())
    _log.info("%s: fetched %s", address, ", ".join(found))


def _is_unreachable(error: BaseException | None) -> bool:
    """Return whether a request failed, so that it is not known whether the file exists."""
    if isinstance(error, HTTPError):
        return error.code >= 500 or error.code in _HTTP_BUSY
    if isinstance(error, URLError):
        return isinstance(error.reason, OSError)
    return isinstance(error, ConnectionError | TimeoutError)


@contextlib.contextmanager
def _without_errors(logger_name: str) -> Iterator[None]:
    """Keep a logger from reporting errors: here a missing file is none."""
    logger = logging.getLogger(logger_name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
