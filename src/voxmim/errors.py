"""Errors that a user can fix: one sentence with the file, the fault and the remedy."""

import difflib
import signal
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path


class VoxmimError(Exception):
    """Base of all errors that a user can fix; the command line prints only the text."""

    def __str__(self) -> str:
        return super().__str__().encode("utf-8", "backslashreplace").decode()  # names of files may be of other bytes


class ScanError(VoxmimError):
    """A scan or a label map cannot be used: unreadable, of the wrong shape, constant, not finite.

    Attributes:
        kind: of the finding, see `voxmim.findings`.
    """

    def __init__(self, text: str, kind: str = "unreadable") -> None:
        super().__init__(text)
        self.kind = kind


class SourceError(VoxmimError):
    """A folder or list of scans cannot be used: missing, empty, or contradictory."""


class DownloadError(VoxmimError):
    """A data set cannot be downloaded: unknown, unreachable, damaged, or too large for the disk."""


class StoreError(VoxmimError):
    """A store is missing, damaged, or has no labels or cases that the command needs."""


class WorkerError(VoxmimError):
    """A worker process died, or the cluster does not answer."""


class RunError(VoxmimError):
    """A run folder is missing, of another kind, occupied, or cannot be resumed."""


class RecipeError(VoxmimError):
    """A recipe has an unknown key, a value of the wrong type, or contradictory values."""


class WeightsError(VoxmimError):
    """Weights cannot be read, or too few of them fit the network."""


class MissingPackageError(VoxmimError):
    """A package of one of voxmim's extras is not installed."""


class TrainingError(VoxmimError):
    """Training cannot go on, for instance because the loss is no longer finite."""


class StoppedError(VoxmimError):
    """A training was stopped by a signal after a checkpoint; `status` is the exit status, 128 + the signal's number."""

    def __init__(self, run: Path, step: int, number: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"{run}: stopped by {name} after step {step}, with a checkpoint; continue with --resume.")
        self.status = 128 + number


def nearest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` with the known word closest to `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def require(extra: str, what: str, *packages: str) -> None:
    """Check that the packages of an extra, such as ``export``, are installed.

    Raises:
        MissingPackageError: one is not; the message begins with `what` needs it.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise MissingPackageError(f"{what} needs {', '.join(missing)}: run pip install 'voxmim[{extra}]'.")
