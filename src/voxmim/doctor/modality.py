"""Telling CT from MR, for a source and for single scans."""

from collections.abc import Sequence

from voxmim.doctor.facts import PERCENTILES, Facts
from voxmim.images.intensity import BODY_HU

MAX_VOTES = 5  # scans that decide between CT and MR
_FAT_HU, _TISSUE_HU = -20, 0  # a CT of a body has values below the first and above the second


def guess_intensity(facts: Sequence[Facts], channels: Sequence[str] = ()) -> str:
    """``ct`` if a channel is named CT, or if most of the first `MAX_VOTES` scans have whole values down to -500."""
    if named_ct(channels):
        return "ct"
    votes = [_may_be_hu(each) for each in facts[:MAX_VOTES]]
    return "ct" if 2 * sum(votes) > len(votes) else "mr"


def is_decided(facts: Sequence[Facts]) -> bool:
    """Whether further scans cannot change the guess."""
    votes = sum(map(_may_be_hu, facts))
    return max(votes, len(facts) - votes) > MAX_VOTES // 2


def named_ct(channels: Sequence[str]) -> bool:
    """Whether a channel is named CT."""
    return any("ct" in channel.lower().replace("_", " ").replace("-", " ").split() for channel in channels)


def rule_misfit(facts: Facts, kind: str) -> str | None:
    """Why a scan cannot be of a kind, ``ct`` or ``mr``; None if it can.

    CT has fat and air below -20 HU, and something denser than water; MR has no whole values of -500.
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
