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
_TIMEOUT = 60  # seconds without a byte


def size_of(url: str) -> int | None:
    """The size of the file at a URL in bytes, None if unknown; raises DownloadError as `fetch`."""
    with _open(url, method="HEAD") as response:
        length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def fetch(url: str, file: Path, size: int | None, on_bytes: OnBytes) -> None:
    """Download `url` to `file`; a partial file is continued if the server supports it.

    Raises DownloadError if the server has no such file or cannot be reached, the connection broke (the partial file is
    kept), or `file` cannot be written.
    """
    done = file.stat().st_size if file.exists() else 0
    if size is not None and done == size:
        return
    if size is None or done > size:
        done = 0
    with _open(url, {"Range": f"bytes={done}-"} if done else {}) as response:
        if response.status != 206:  # the complete file, not the requested range
            done = 0
        try:
            with file.open("ab" if done else "wb") as target:
                done = _copy(response, target, done, size, on_bytes)
        except OSError as error:
            raise DownloadError(
                f"{file}: it cannot be written ({error.strerror or error}); make room and run again to continue."
            ) from None
    if size is not None and done != size:
        raise _broken(url, f"it ended after {done:,} of {size:,} bytes")


def check(file: Path, md5: str, on_bytes: OnBytes) -> None:
    """Check a file's MD5; raises DownloadError and removes the file if it differs."""
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


def _open(url: str, headers: dict[str, str] | None = None, method: str = "GET") -> Any:
    """Open a URL; the response is a context manager."""
    if not url.startswith(("https://", "http://")):
        raise DownloadError(f"{url}: the address of a mirror must begin with https:// or http://.")
    try:
        return urlopen(Request(url, headers=headers or {}, method=method), timeout=_TIMEOUT)
    except HTTPError as error:
        error.close()
        raise DownloadError(
            f"{url}: the server answers {error.code} ({error.reason}); check the address, or name another --mirror."
        ) from None
    except (OSError, HTTPException, ValueError) as error:
        why = getattr(error, "reason", error)
        raise DownloadError(f"{url}: the server cannot be reached ({why}); check the network and run again.") from None


def _copy(response: Any, target: IO[bytes], done: int, size: int | None, on_bytes: OnBytes) -> int:
    """Append the response to a file of `done` bytes; returns the file's size."""
    while True:
        try:
            block = response.read(_BLOCK)
        except (OSError, HTTPException) as error:
            raise _broken(response.url, str(error) or type(error).__name__) from None
        if not block:
            return done
        target.write(block)
        done += len(block)
        on_bytes(done, size)


def _broken(url: str, why: str) -> DownloadError:
    return DownloadError(f"{url}: the connection broke ({why}); run again to continue where it stopped.")
