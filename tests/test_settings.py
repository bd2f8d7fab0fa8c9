"""Old names of settings in weights and run folders are read under their new names."""

from __future__ import annotations

from pathlib import Path

import pytest

from voxmim.networks.build import described_encoder
from voxmim.networks.vit import ViTSettings
from voxmim.pretext.build import described_pretext
from voxmim.pretext.mae import MAESettings
from voxmim.settings import Augmentation, MaskSettings, Training, check_range, with_current_names
from voxmim.training.run import Run

OLD = {
    "encoder": "vit",
    "vit": {"patch": [4, 4, 4], "width": 24, "depth": 2, "heads": 2, "positions": "learned", "rotary": True},
    "pretext": "mae",
    "mae": {"cross": True, "share": 0.5},
    "mask": {"kind": "body", "ratio": 0.6, "unit": [8, 8, 8], "body_share": 0.7},
}


def test_metadata_of_old_weights_describe_the_same_network(caplog: pytest.LogCaptureFixture) -> None:
    metadata = with_current_names(OLD, "encoder.safetensors")
    vit = ViTSettings((4, 4, 4), 24, 2, 2, position_embedding="learned", rope=True)
    assert described_encoder(metadata) == ("vit", vit)
    mask = MaskSettings("body", 0.6, (8, 8, 8), body_fraction=0.7)
    assert described_pretext(metadata) == ("mae", MAESettings(cross_attention=True, predicted_fraction=0.5), mask)
    (record,) = caplog.records
    assert record.getMessage() == (
        "encoder.safetensors: settings have been renamed: vit.positions is now vit.position_embedding; "
        "vit.rotary is now vit.rope; mae.cross is now mae.cross_attention; mae.share is now mae.predicted_fraction; "
        "mask.body_share is now mask.body_fraction."
    )


def test_current_names_of_settings_give_no_message(caplog: pytest.LogCaptureFixture) -> None:
    metadata = {"encoder": "vit", "vit": {"rope": True}, "lrs": [1e-3], "kind": "encoder"}
    assert with_current_names(metadata, "file") == metadata
    assert not caplog.records


def test_metrics_of_an_old_run_have_the_current_columns(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss,val_loss,val_constant,val_spread\n1,0.5,0.4,0.3,0.2\n")
    assert Run(tmp_path, "pretrain", {}).metrics() == [
        {"step": 1, "loss": 0.5, "val_loss": 0.4, "val_guess": 0.3, "val_std": 0.2}
    ]


@pytest.mark.parametrize(
    ("bounds", "low_is_in", "high_is_in"),
    [("[]", True, True), ("(]", False, True), ("[)", True, False), ("()", False, False)],
)
def test_the_bounds_of_a_range_are_inclusive_or_exclusive(bounds: str, low_is_in: bool, high_is_in: bool) -> None:
    for flip, inside in ((0.0, low_is_in), (0.5, True), (1.0, high_is_in)):
        settings = Augmentation(flip=flip)
        if inside:
            check_range(settings, "flip", 0, 1, bounds)  # type: ignore[arg-type]
        else:
            with pytest.raises(ValueError, match=f"flip is {flip}, but must lie"):
                check_range(settings, "flip", 0, 1, bounds)  # type: ignore[arg-type]


def test_the_weight_of_labelled_voxels_decreases_to_1_over_70_percent_of_the_steps() -> None:
    training = Training(steps=100, foreground_weight=8)
    assert [training.foreground_weight_at(step) for step in (0, 35, 70, 99)] == pytest.approx([8, 4.5, 1, 1])
