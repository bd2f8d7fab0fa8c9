"""Opening a path in the viewer."""

from pathlib import Path

from voxmim.errors import SourceError
from voxmim.store.format import INDEX
from voxmim.studies.trial import TRIALS
from voxmim.training.run import ABOUT
from voxmim.viewer.collection import Collection
from voxmim.viewer.runs import run_collection, study_collection
from voxmim.viewer.scans import folder_collection, scan_collection, store_collection


def open_collection(path: Path) -> Collection:
    """Open a run, study, store, folder or list of scans, or one scan; raises VoxmimError if it cannot be shown."""
    if not path.exists():
        raise SourceError(f"{path}: there is no such file or folder; check the path.")
    if (path / ABOUT).is_file():
        return run_collection(path)
    if any((path / TRIALS).glob(f"*/{ABOUT}")):
        return study_collection(path)
    if (path / INDEX).is_file():
        return store_collection(path)
    if path.is_dir() or path.suffix.lower() in (".csv", ".json"):
        return folder_collection(path)
    return scan_collection(path)
