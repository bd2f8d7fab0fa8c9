"""Downloading one file: its size, resuming a partial file, and its checksum."""

import hashlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from voxmim.errors import DownloadError

OnBytes = Callable[[int, int | None], None]
_BLOCK = 1 << 20
_PATIENCE = 60  # seconds without a byte


def size_of(url: str) -> int | None:
    """The size of the file at a URL in bytes, None if the server does not say; raises DownloadError as `fetch`."""
    with _ask(url, method="HEAD") as answer:
        length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def fetch(url: str, file: Path, size: int | None, on_bytes: OnBytes) -> None:
    """Download `url` to `file`, of which a part that is there is continued if the server supports it.

    Raises DownloadError if the server has no such file, cannot be reached, or the connection broke (what came is
    kept), or where `file` cannot be written.
    """
    there = file.stat().st_size if file.exists() else 0
    if size is not None and there == size:
        return
    if size is None or there > size:
        there = 0
    with _ask(url, {"Range": f"bytes={there}-"} if there else {}) as answer:
        if answer.status != 206:  # the complete file, not the requested range
            there = 0
        try:
            with file.open("ab" if there else "wb") as target:
                there = _copy(answer, target, there, size, on_bytes)
        except OSError as error:
            raise DownloadError(
                f"{file}: it cannot be written ({error.strerror or error}); make room and run again to continue."
            ) from None
    if size is not None and there != size:
        raise _cut(url, f"it ended after {there:,} of {size:,} bytes")


def check(file: Path, md5: str, on_bytes: OnBytes) -> None:
    """Compare a file's checksum; a wrong file is removed, and DownloadError raised."""
    digest, size, seen = hashlib.md5(usedforsecurity=False), file.stat().st_size, 0
    with file.open("rb") as source:
        while block := source.read(_BLOCK):
            digest.update(block)
            seen += len(block)
            on_bytes(seen, size)
    if digest.hexdigest() != md5:
        file.unlink()
        raise DownloadError(
            f"{file}: the download differs from the published file (MD5 {digest.hexdigest()} instead of {md5}), so "
            "it was removed; run again, or name another --mirror."
        )


def _ask(url: str, headers: dict[str, str] | None = None, method: str = "GET") -> Any:
    """Open a URL; the answer is a context manager to read from."""
    if not url.startswith(("https://", "http://")):
        raise DownloadError(f"{url}: the address of a mirror must begin with https:// or http://.")
    try:
        return urlopen(Request(url, headers=headers or {}, method=method), timeout=_PATIENCE)
    except HTTPError as error:
        error.close()
        raise DownloadError(
            f"{url}: the server answers {error.code} ({error.reason}); check the address, or name another --mirror."
        ) from None
    except (OSError, HTTPException, ValueError) as error:
        why = getattr(error, "reason", error)
        raise DownloadError(f"{url}: the server cannot be reached ({why}); check the network and run again.") from None


def _copy(answer: Any, target: IO[bytes], there: int, size: int | None, on_bytes: OnBytes) -> int:
    """Append the answer to the file; returns the file's size."""
    while True:
        try:
            block = answer.read(_BLOCK)
        except (OSError, HTTPException) as error:
            raise _cut(answer.url, str(error) or type(error).__name__) from None
        if not block:
            return there
        target.write(block)
        there += len(block)
        on_bytes(there, size)


def _cut(url: str, why: str) -> DownloadError:
    return DownloadError(f"{url}: the connection broke ({why}); run again to continue where it stopped.")
