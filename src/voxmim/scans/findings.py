"""What is found wrong with a file of a source, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Action = Literal["used", "repaired", "left out"]


@dataclass(frozen=True)
class Finding:
    """One thing that is odd about one file.

    Attributes:
        file: path of the scan or label map.
        kind: one word or two, such as ``unreadable`` or ``flipped label``.
        reason: one sentence that names the file.
        action: what is done about it: used as it is, repaired, or left out.
    """

    file: str
    kind: str
    reason: str
    action: Action
