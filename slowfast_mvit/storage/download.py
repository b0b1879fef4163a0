"""Downloads over https into a cache: resumed, checked by hash, safe with several processes.

``torch.hub`` and iopath neither resume nor limit a download and follow a redirect to any scheme,
so this is our own code; folder and file names are torch.hub's.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import logging
import os
import re
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit

from iopath.common.file_io import file_lock
from portalocker import LockException
from tqdm import tqdm

from slowfast_mvit.errors import UserError, WriteError, printable, write_error
from slowfast_mvit.storage.atomic import write_text_atomically

logger = logging.getLogger(__name__)

MAX_BYTES = 8 * 2**30  # the largest published model has 2.8 GB
TIMEOUT_S = 60.0  # in which at least
LEAST_BYTES = 65_536  # are received
ATTEMPTS = 5  # in a row without as many new bytes
HASHES_FILE = "slowfast_mvit_hashes.json"
OFFLINE_VARIABLES = ("SLOWFAST_MVIT_OFFLINE", "HF_HUB_OFFLINE")

_BLOCK = 1 << 20
_COMPRESSED = ("gzip", "x-gzip", "deflate", "br", "zstd")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Errors of the disk, which trying again does not mend.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)


class DownloadError(UserError):
    """A file that cannot be fetched; the message has the address and the remedy."""


def is_offline() -> bool:
    """Return whether an environment variable forbids downloads."""
    return any(
        os.environ.get(name, "").upper() not in ("", "0", "FALSE", "NO")
        for name in OFFLINE_VARIABLES
    )


def download(
    url: str,
    folder: Path,
    *,
    sha256: str = "",
    max_bytes: int = MAX_BYTES,
    allow_loopback: bool = False,
) -> Path:
    """Return a local copy of a file; it is fetched unless it is in the folder already.

    Of several processes that share the folder, one fetches it and the others wait.

    Args:
        url: an https address, which ends in the name of the file.
        folder: of the copy.
        sha256: first digits of its SHA-256, where they are published. Of other files the hash of
            the first download is remembered in ``HASHES_FILE``.
        max_bytes: larger files are refused.
        allow_loopback: also fetch over http from this machine; for tests.

    Raises:
        DownloadError: it cannot be fetched, or is another file than published or remembered.
        WriteError: the folder is full or cannot be written.
    """
    _require_secure(url, allow_loopback)
    name = Path(urlsplit(url).path).name
    if not name or name.startswith("."):
        raise DownloadError(f"{printable(url)}: the address does not end in the name of a file")
    path = folder / name
    try:
        if not path.is_file():  # else the folder may be read-only
            folder.mkdir(parents=True, exist_ok=True)
            with file_lock(str(path)):
                if not path.is_file():
                    _fetch(url, path, sha256, max_bytes, allow_loopback)
        _check(path, sha256)
    except LockException as error:
        raise _by_hand(url, path, f"{path}.lock cannot be locked: {error}") from error
    except OSError as error:
        raise write_error(path, error) from error
    return path


def _require_secure(url: str, allow_loopback: bool) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a port may be no number
    except ValueError as error:
        raise DownloadError(f"{printable(url)}: not an address ({error})") from error
    is_local = parts.scheme == "http" and host in _LOOPBACK
    if parts.scheme != "https" and not (allow_loopback and is_local):
        raise DownloadError(
            f"{printable(url)}: only https is fetched. If you trust it, download it by hand and "
            "give the path of the file"
        )


def _in_ascii(url: str) -> str:
    parts = urlsplit(url)
    path, query = (quote(part, safe="/%?:@!$&'()*+,;=~") for part in (parts.path, parts.query))
    return parts._replace(path=path, query=query, fragment="").geturl()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to https only."""

    def __init__(self, allow_loopback: bool) -> None:
        self._allow_loopback = allow_loopback

    def redirect_request(self, *request: Any) -> urllib.request.Request | None:
        _require_secure(request[-1], self._allow_loopback)
        return super().redirect_request(*request)


def _fetch(url: str, path: Path, sha256: str, max_bytes: int, allow_loopback: bool) -> None:
    """Download to ``path``; what a cut download left is continued.

    Raises:
        DownloadError: it cannot be fetched.
        OSError: it cannot be written.
    """
    if is_offline():
        raise _by_hand(url, path, f"{' or '.join(OFFLINE_VARIABLES)} is set")
    opener = urllib.request.build_opener(_Redirects(allow_loopback))
    part, attempt = path.with_name(f"{path.name}.part"), 0
    most = _size(part)
    while attempt < ATTEMPTS:
        try:
            _receive(opener, url, part, max_bytes)
            break
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in _DISK:
                raise
            code = error.code if isinstance(error, HTTPError) else 500
            if isinstance(error, HTTPError) and code == 416:  # nothing is after these bytes
                if error.headers.get("Content-Range") == f"bytes */{_size(part)}":
                    break
                _discard(part)
            is_ahead = _size(part) >= most + LEAST_BYTES
            most, attempt = max(most, _size(part)), 1 if is_ahead else attempt + 1
            is_final = code < 500 and code not in (408, 416, 429)  # those ask to try again
            if is_final or attempt == ATTEMPTS:
                raise _by_hand(url, path, f"{type(error).__name__}: {error}") from error
            time.sleep(0.1 * 2**attempt)
    digest = file_digest(part)
    if not digest.startswith(sha256):
        _discard(part)
        raise DownloadError(
            f"{printable(url)}: not the published file: its SHA-256 begins with "
            f"{digest[: len(sha256)]}, that of the published one with {sha256}. Nothing was kept"
        )
    os.replace(part, path)
    _discard(part)


def _receive(opener: urllib.request.OpenerDirector, url: str, part: Path, max_bytes: int) -> None:
    """Append the bytes that are missing to ``part``, or all of them where it is of another file."""
    tag_file = part.with_name(f"{part.name}.etag")
    request = urllib.request.Request(_in_ascii(url), headers={"User-Agent": "slowfast_mvit"})
    if _size(part) and tag_file.is_file():
        request.add_header("Range", f"bytes={_size(part)}-")
        request.add_header("If-Range", tag_file.read_text(encoding="latin-1"))
    with opener.open(request, timeout=TIMEOUT_S) as response:
        _require_file(url, part, response.headers)
        start, total = _range_of(response, _size(part))
        if start is None:
            _discard(part)
            raise ConnectionError("the server sent other bytes than those asked for")
        if total is not None and total > max_bytes:
            raise _too_large(url, part, max_bytes)
        if start == 0:
            _discard(part)
            part.touch()  # before the tag, which would else be that of the old bytes
            tag = response.headers.get("ETag", "")
            if tag and not tag.startswith("W/"):  # a weak one promises no equal bytes
                tag_file.write_text(tag, encoding="latin-1")
        since, recent = time.monotonic(), 0
        with (
            open(part, "ab") as file,
            tqdm(
                desc=part.stem, total=total, initial=start, unit="B", unit_scale=True, leave=False
            ) as progress,
        ):
            while block := response.read1(_BLOCK):
                if file.tell() + len(block) > max_bytes:
                    raise _too_large(url, part, max_bytes)
                file.write(block)
                progress.update(len(block))
                recent += len(block)
                if time.monotonic() - since > TIMEOUT_S:
                    if recent < LEAST_BYTES:
                        raise ConnectionError(f"only {recent:,} bytes in {TIMEOUT_S:g} s")
                    since, recent = time.monotonic(), 0
        if total is not None and _size(part) < total:
            raise ConnectionError(f"the connection ended after {_size(part):,} of {total:,} bytes")


def _require_file(url: str, part: Path, headers: Any) -> None:
    """Refuse the page of a login or an error, and content that would have to be decompressed."""
    encoding, kind = (
        headers.get(name, "").lower() for name in ("Content-Encoding", "Content-Type")
    )
    if kind.startswith("text/html"):
        reason = "a web page was received in its place, as by a login of the network"
    elif encoding in _COMPRESSED:
        reason = f"the server sends it compressed ({encoding})"
    else:
        return
    raise _by_hand(url, part.with_suffix(""), reason)


def _range_of(response: Any, asked: int) -> tuple[int | None, int | None]:
    """Return the first byte of a response, None for a wrong one, and the bytes of the file.

    Args:
        response: of the server.
        asked: the first byte that was asked for.
    """
    length = response.headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() else None
    if response.status != 206:
        return 0, size
    sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if sent is None or int(sent[1]) != asked:
        return None, None
    return asked, size and asked + size if sent[2] == "*" else int(sent[2])


def _too_large(url: str, part: Path, max_bytes: int) -> DownloadError:
    _discard(part)
    return DownloadError(
        f"{printable(url)}: larger than {max_bytes:,} bytes, so it is not fetched. If you trust "
        "it, download it by hand and give the path of the file"
    )


def _by_hand(url: str, path: Path, reason: str) -> DownloadError:
    return DownloadError(
        f"{printable(url)}: cannot be fetched ({printable(reason)}). Download it by hand on "
        f"another machine, and put it into {path.parent} as {path.name}"
    )


def _check(path: Path, sha256: str) -> None:
    """Compare a file with its published hash and with that of its first use.

    The hash is computed again only when size or time of the file have changed.

    Raises:
        DownloadError: names the file and the way to accept it.
    """
    record = path.with_name(HASHES_FILE)
    known = _remembered(record)
    entry = known.get(path.name, {})
    status = path.stat()
    stamp = [status.st_size, status.st_mtime_ns]
    if entry.get("stamp") == stamp and str(entry.get("sha256")).startswith(sha256):
        return
    digest = file_digest(path)
    if not digest.startswith(sha256):
        raise DownloadError(
            f"{path}: not the published file: its SHA-256 begins with {digest[: len(sha256)]}, "
            f"that of the published one with {sha256}. Delete it, to fetch it again"
        )
    if str(entry.get("sha256", digest)) != digest:
        raise DownloadError(
            f"{path}: its content has changed since its first use: the SHA-256 was "
            f"{str(entry['sha256'])[:16]}..., is {digest[:16]}.... If that is right, remove "
            f"{path.name!r} from {record}"
        )
    known[path.name] = {"sha256": digest, "stamp": stamp}
    try:
        with file_lock(str(record)):
            write_text_atomically(record, json.dumps(_remembered(record) | known, indent=1) + "\n")
    except (LockException, PermissionError, WriteError) as error:  # a read-only cache
        logger.warning("%s: its hash cannot be remembered (%s)", path, error)


def _remembered(record: Path) -> dict[str, dict[str, Any]]:
    """Return the remembered hashes by file name.

    Raises:
        DownloadError: the file of hashes is damaged.
    """
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        return {str(name): dict(entry) for name, entry in dict(content).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, RecursionError) as error:
        raise DownloadError(
            f"{record}: damaged ({printable(str(error))}). It has the hashes of downloads at their "
            "first use. Restore it; or delete it, which accepts all files next to it as they are"
        ) from error


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}.etag").unlink(missing_ok=True)
