"""Downloading a data set: showing its terms, and fetching, checking and unpacking its archive."""

import os
import shutil
import tarfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path, PurePosixPath

from voxmim.datasets.catalogue import CITATION, LICENCE, LICENCE_TEXT, MIRROR, archive_of
from voxmim.datasets.fetch import OnBytes, check, fetch, size_of
from voxmim.errors import DownloadError

Watch = Callable[[str], AbstractContextManager[OnBytes]]


def unwatched(_: str) -> AbstractContextManager[OnBytes]:
    """Report no progress."""
    return nullcontext(lambda done, total: None)


def download(
    name: str,
    out: Path | str = ".",
    mirror: str | None = None,
    agree: Callable[[str], bool] = lambda _: True,
    watch: Watch = unwatched,
) -> Path:
    """Download a public data set; see `voxmim.download` for arguments, result and errors."""
    archive, out = archive_of(name), Path(out)
    folder, file = out / archive.folder, out / f".{archive.file}.part"
    if folder.exists():
        return folder
    url = f"{(mirror or MIRROR).rstrip('/')}/{archive.file}"
    size = size_of(url)
    much = "of unknown size" if size is None else f"{size / 1e6:,.1f} MB"
    terms = (
        f"{name}: {archive.about}.\nFrom: {url}, {much}\nLicence: {LICENCE} ({LICENCE_TEXT})\nPlease cite: {CITATION}"
    )
    if not agree(terms):
        raise DownloadError(f"{name}: not downloaded, because its terms were not accepted; answer y, or add --yes.")
    out.mkdir(parents=True, exist_ok=True)
    present = file.stat().st_size if file.exists() else 0
    need, free = 2 * (size or 0) - present, shutil.disk_usage(out).free  # for the archive, and as much for its files
    if need > free:
        raise DownloadError(
            f"{out}: {need / 1e9:.1f} GB are needed here, and {free / 1e9:.1f} GB are free; make room, or name another "
            "--out."
        )
    with watch("downloading") as on_bytes:
        fetch(url, file, size, on_bytes)
    with watch("checking") as on_bytes:
        check(file, archive.md5, on_bytes)
    with watch("unpacking") as on_bytes:
        unpack(file, folder, on_bytes)
    file.unlink()
    return folder


def unpack(file: Path, folder: Path, on_bytes: OnBytes = lambda done, total: None) -> None:
    """Unpack an archive of one folder, which must have the name of `folder`, without macOS' own files.

    Raises DownloadError if it is damaged, would write elsewhere, or has other content; or if the disk is full.
    """
    temporary = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                if not PurePosixPath(member.name).name.startswith(("._", ".DS_Store")):
                    archive.extract(member, temporary, filter="data")
                on_bytes(member.offset_data + member.size, file.stat().st_size)
        if not (temporary / folder.name).is_dir():
            raise DownloadError(f"{file}: the archive does not hold a folder {folder.name}; name another --mirror.")
        os.replace(temporary / folder.name, folder)
    except tarfile.TarError as error:
        raise DownloadError(f"{file}: the archive cannot be unpacked ({error}); delete it and run again.") from None
    except OSError as error:
        raise DownloadError(
            f"{folder}: it cannot be written ({error.strerror or error}); make room and run again."
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
