"""What a training settles before its first step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from conftest import Tiny
from voxmim.networks import precision
from voxmim.recipe import load_recipe
from voxmim.settings import Recipe
from voxmim.store import Store
from voxmim.training.pretrain import pretrain
from voxmim.training.run import Run
from voxmim.training.setup import begin


@pytest.mark.parametrize(("fast", "settled"), [(True, "bf16"), (False, "32")])
def test_the_precision_is_settled_once_and_a_resumed_run_keeps_it(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool, settled: str
) -> None:
    store, recipe = Store(tiny.store), load_recipe(tiny.recipe, {"precision": "auto"})
    monkeypatch.setattr(precision, "fast_bfloat16", lambda _: fast)
    out = pretrain(store, tmp_path / "run", replace(recipe, pretrain=replace(recipe.pretrain, steps=1))).path
    assert Run.open(out).recipe().precision == settled

    monkeypatch.setattr(precision, "fast_bfloat16", lambda _: not fast)  # as if another machine went on with it
    assert begin(store, out, "pretrain", Recipe(), None, resume=True).recipe.precision == settled
