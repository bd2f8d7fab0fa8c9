"""CT or MR: what the scans of a source are, and which of them is not what it is taken for."""

from __future__ import annotations

from collections.abc import Sequence

from voxmim.doctor.facts import PERCENTILES, Facts
from voxmim.images.intensity import BODY_HU

LOOKED_AT = 5  # scans that tell CT from MR
_FAT_HU, _TISSUE_HU = -20, 0  # no CT of a body is without something below the one and above the other


def guess_intensity(facts: Sequence[Facts], channels: Sequence[str] = ()) -> str:
    """Tell CT from MR: by a channel named CT, otherwise by whole values down to -500 or less in most of the scans.

    The first scans are enough: the same few are asked whether or not the others are known.
    """
    if named_ct(channels):
        return "ct"
    votes = [_may_be_hu(each) for each in facts[:LOOKED_AT]]
    return "ct" if votes and 2 * sum(votes) > len(votes) else "mr"


def named_ct(channels: Sequence[str]) -> bool:
    """Whether a channel's name says that it is CT."""
    return any("ct" in channel.lower().replace("_", " ").replace("-", " ").split() for channel in channels)


def rule_misfit(facts: Facts, kind: str) -> str | None:
    """Why a scan is not what it is taken for, ``ct`` or ``mr``, or None.

    CT has fat and air, under -20 HU, and something denser than water; MR has no air of -500 in whole numbers.
    """
    channels = [dict(zip(PERCENTILES, channel, strict=True)) for channel in facts.percentiles]
    if kind == "mr":
        lowest = min(channel[0.5] for channel in channels)
        return f"its whole values down to {lowest:g} are those of CT" if lowest <= BODY_HU and facts.whole else None
    for channel in channels:
        low, high = channel[0.0], channel[99.5]
        if low > _FAT_HU or high < _TISSUE_HU:
            return f"its values from {low:g} to {high:g} are no Hounsfield units"
    return None


def _may_be_hu(facts: Facts) -> bool:
    return facts.whole and min(channel[0] for channel in facts.percentiles) <= BODY_HU
