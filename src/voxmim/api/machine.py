"""A description of this machine: versions, devices, precisions, optional packages, disk."""

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from voxmim import workers

PACKAGES = ("voxmim", "torch", "lightning", "monai", "numpy", "SimpleITK", "nibabel", "blosc2", "safetensors")
OPTIONAL = {  # package: purpose
    "pydicom": "DICOM",
    "highdicom": "DICOM segmentations",
    "distributed": "Dask clusters, pip install 'voxmim[cluster]'",
}


def doctor() -> list[list[str]]:
    """Show versions, devices, optional packages and disk space, for a bug report.

    Returns:
        Rows of a table: name and value.
    """
    rows = [["Python", f"{platform.python_version()} on {platform.platform()}"]]
    rows += [[name, _version(name)] for name in PACKAGES]
    rows += [[f"{name} ({use})", _version(name)] for name, use in OPTIONAL.items()]
    rows += _devices()
    for what, folder in (("this folder", Path.cwd()), ("temporary files", Path(os.environ.get("TMPDIR", "/tmp")))):
        if folder.is_dir():
            rows.append([f"disk, {what}", f"{shutil.disk_usage(folder).free / 1e9:,.1f} GB free in {folder}"])
    return rows


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> list[list[str]]:
    """The CPU and the GPUs, with the precision of `precision: auto`."""
    import torch

    from voxmim.networks.precision import chosen_precision
    from voxmim.text import counted

    cpu = torch.device("cpu")
    threads, precision = torch.get_num_threads(), chosen_precision("auto", cpu)
    rows = [["CPU", f"{counted(workers.cores(), 'core')}, {counted(threads, 'thread')}, precision {precision}"]]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        precision = chosen_precision("auto", torch.device("cuda", index))
        rows.append(
            [f"GPU {index}", f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, precision {precision}"]
        )
    return rows if torch.cuda.is_available() else [*rows, ["GPU", "none that torch can use"]]
