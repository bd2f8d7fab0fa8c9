"""The choices of `--to`."""

from __future__ import annotations

from typing import get_args, get_type_hints

from voxmim.api import weights
from voxmim.export.exported import Exported
from voxmim.export.formats import FORMATS


def test_the_option_offers_every_format() -> None:
    hints = get_type_hints(weights.export_weights, localns={"Exported": Exported})
    assert get_args(hints["to"]) == tuple(FORMATS)
