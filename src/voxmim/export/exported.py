"""What an export has written."""

from pathlib import Path
from typing import NamedTuple

from voxmim.errors import WeightsError


class Exported(NamedTuple):
    """What an export has written."""

    what: str  # in a few words, such as "the encoder for monai"
    usage: str  # Python lines or commands that use it
    difference: float | None = None  # the largest absolute one of its output to torch's; None if it was not computed
    tolerance: float = 1e-4  # of the difference

    @property
    def sound(self) -> bool:
        """Whether its output was not seen to differ from torch's."""
        return self.difference is None or self.difference <= self.tolerance


def cannot_export(run: Path, reason: object) -> WeightsError:
    """The error of an encoder that another package's network cannot hold."""
    return WeightsError(f"{run}: this encoder cannot be exported, since {reason}.")


def no_counterpart(run: Path, form: str, error: BaseException) -> WeightsError:
    """The error of a network that cannot be exported, in one sentence with the first line of the exporter's own."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return WeightsError(f"{run}: a part of this network has no counterpart in {form} ({reason}).")
