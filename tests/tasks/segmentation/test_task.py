"""What a segmentation decides from the scores of its validation cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import Tiny
from voxmim.recipe import load_recipe
from voxmim.store.format import Store
from voxmim.tasks.segmentation.predict import CLEANED, Segmentor
from voxmim.tasks.segmentation.task import DICE, Segmentation
from voxmim.training.finetune import finetune
from voxmim.training.run import Run
from voxmim.weights.files import read_weights


def test_small_components_are_removed_where_that_helps_at_the_best_step(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(bone: float, cleaned_bone: float, fat: float, cleaned_fat: float) -> dict[str, dict[str, float]]:
        return {DICE: {"bone": bone, "fat": fat}, CLEANED: {"bone": cleaned_bone, "fat": cleaned_fat}}

    # two validation cases at each of three steps; the second step is the best, and bone gains on average there
    script = iter([*2 * [scores(0.1, 0.1, 0.1, 0.2)], scores(0.6, 0.8, 0.6, 0.6), scores(0.6, 0.5, 0.6, 0.6),
                   *2 * [scores(0.3, 0.2, 0.1, 0.2)]])  # fmt: skip
    monkeypatch.setattr(Segmentation, "score_case", lambda *_: next(script))
    recipe = load_recipe(tiny.recipe, {"finetune.steps": 3, "finetune.validate_every": 1})
    run, _ = finetune(Store(tiny.store), tmp_path / "run", recipe)
    assert read_weights(run.path / "segmentor.safetensors")[1][CLEANED] == ["bone"]
    assert Segmentation.facts(Run.open(run.path).about) == [("small components removed", "bone")]
    assert Segmentor.load(run.path).cleaned == [1]
