"""The result and the errors of an export."""

from pathlib import Path
from typing import NamedTuple

from voxmim.errors import WeightsError


class Exported(NamedTuple):
    """The result of an export."""

    what: str  # such as "the encoder for monai"
    usage: str  # Python lines or commands that use it
    difference: float | None = None  # largest absolute difference of its output to torch's; None if not computed
    tolerance: float = 1e-4  # of the difference

    @property
    def sound(self) -> bool:
        """Whether its output does not differ from torch's, as far as it was compared."""
        return self.difference is None or self.difference <= self.tolerance


def cannot_export(run: Path, reason: object) -> WeightsError:
    """The error of an encoder that does not fit another package's network."""
    return WeightsError(f"{run}: this encoder cannot be exported, since {reason}.")


def no_counterpart(run: Path, form: str, error: BaseException) -> WeightsError:
    """The error of a network that cannot be exported, with the first line of the exporter's error."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return WeightsError(f"{run}: a part of this network has no counterpart in {form} ({reason}).")
