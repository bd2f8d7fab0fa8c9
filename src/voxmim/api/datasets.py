"""Public data sets: which there are, and downloading one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voxmim.datasets.download import Watch


def download(
    name: str,
    out: Path | str = ".",
    mirror: str | None = None,
    agree: Callable[[str], bool] = lambda _: True,
    watch: Watch | None = None,
) -> Path:
    """Download a public data set of the Medical Segmentation Decathlon.

    Licence, size and citation come first. A broken download continues where it stopped. The archive is checked against
    its published checksum, and the data set's folder appears only when it is complete. Without a name, the data sets
    are listed.

    Args:
        name: data set to download, such as msd-hippocampus.
        out: folder to create the data set's own folder in.
        mirror: URL of a folder that holds the archive. Default: the AWS Open Data bucket.
        agree: called with licence, size and citation; nothing is downloaded if it returns False.
        watch: called with the name of a stage; returns a context manager that gives a function of bytes done and total.

    Returns:
        The data set's folder, which `prepare` reads. An existing one is left as it is.

    Raises:
        DownloadError: unknown name, no connection, a damaged archive, no space, or the terms were not accepted.
    """
    from voxmim.datasets.download import download, unwatched

    return download(name, out, mirror, agree, watch or unwatched)


def data_sets() -> list[list[str]]:
    """List the data sets that `download` knows, as rows of name, content and licence."""
    from voxmim.datasets.catalogue import ARCHIVES, LICENCE

    return [[name, archive.about, LICENCE] for name, archive in ARCHIVES.items()]
