"""Model cards, which are written next to every weights file."""

from __future__ import annotations

import pytest

from command_line import parsed
from conftest import TinyRuns
from voxmim.weights.card import CARD, model_card
from voxmim.weights.files import KINDS, read_weights

METADATA = {
    "kind": "encoder",
    "preparation": {"spacing": [1.5, 1.5, 2.0], "intensity": "ct", "channels": ["CT"]},
    "window": [-175.0, 250.0],
    "crop": [96, 96, 64],
    "vit": {"patch": [16, 16, 16], "width": 768, "size": None},
    "data": {"name": "Some scans", "licence": "CC BY 4.0"},
}


def test_a_card_describes_the_weights_and_how_to_load_them() -> None:
    card = model_card("encoder.safetensors", METADATA)
    for row in (
        "| data set | Some scans |",
        "| licence of the data | CC BY 4.0 |",
        "| voxel size | 1.5 x 1.5 x 2 mm |",
        "| intensity | CT, -175 to 250 HU become 0 to 1 |",
        "| crop | 96 x 96 x 64 voxels |",
        "| encoder | vit (patch [16, 16, 16], width 768) |",
        "voxmim.load_encoder('encoder.safetensors')",
        "voxmim finetune STORE OUT --init .",
    ):
        assert row in card


def test_a_card_lists_all_initial_weights_with_their_licences() -> None:
    first = {"file": "first.safetensors", "data": {"licence": "CC0"}}
    second = {"file": "second.safetensors", "data": {"licence": ""}, "init": first}
    imported = {"file": "model.pt", "naming": "monai_vit", "digest": "ab12", "source": "example.org"}
    card = model_card("encoder.safetensors", METADATA | {"init": second, "imported": imported})
    started = [line for line in card.splitlines() if "started from" in line]
    assert started == [
        "| started from | second.safetensors, licence: unknown |",
        "| started from | first.safetensors, licence: CC0 |",
    ]
    assert "| imported from | model.pt (layout monai_vit, BLAKE2 ab12) |\n| source | example.org |" in card


def test_figures_are_on_the_card_only_if_there_are_any() -> None:
    assert "## Figures" not in model_card("encoder.safetensors", METADATA)
    card = model_card("encoder.safetensors", METADATA | {"figures": {"validation Dice": 0.81}})
    assert "## Figures\n\n| | |\n|---|---|\n| validation Dice | 0.81 |" in card


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_on_a_card_can_be_parsed(kind: str) -> None:
    command = model_card("any.safetensors", METADATA | {"kind": kind}).split("```")[-2].strip()
    assert parsed(command.split()[1:]).command == ("finetune" if kind == "encoder" else "predict")


def test_each_training_writes_a_card_next_to_its_weights(tiny_runs: TinyRuns) -> None:
    for run, kind in ((tiny_runs.pretrain, "encoder"), (tiny_runs.finetune, "segmentor")):
        _, metadata = read_weights(run / f"{kind}.safetensors")
        assert (run / CARD).read_text() == model_card(f"{kind}.safetensors", metadata)
    assert "| labels | " in (tiny_runs.finetune / CARD).read_text()
