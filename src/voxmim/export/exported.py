"""What an export has written."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from voxmim.errors import WeightsError


class Exported(NamedTuple):
    """What an export has written.

    Attributes:
        what: in a few words, such as ``the encoder for monai``.
        usage: Python lines or commands that use it.
        difference: the largest absolute difference of its output to torch's; None where it was not computed.
        tolerance: of the difference.
    """

    what: str
    usage: str
    difference: float | None = None
    tolerance: float = 1e-4

    @property
    def sound(self) -> bool:
        """Whether its output was not seen to differ from torch's."""
        return self.difference is None or self.difference <= self.tolerance


def no_counterpart(run: Path, form: str, error: BaseException) -> WeightsError:
    """The error of a network that cannot be exported, in one sentence with the first line of the exporter's own."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return WeightsError(f"{run}: a part of this network has no counterpart in {form} ({reason}).")
