"""Ensembles of several runs average their probabilities."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from conftest import Sorted, TinyRuns
from voxmim import api
from voxmim.errors import WeightsError
from voxmim.images.volume import open_image
from voxmim.tasks.segmentation.predict import Segmentor
from voxmim.weights.files import read_weights, save_weights
from voxmim.weights.join import Ensemble, mean, mean_of_labels, mean_of_regions
from voxmim.weights.load import load_segmentor

RunVoxmim = Callable[..., tuple[int, str, str]]


class ConstantLogits(nn.Module):
    """Returns the same logits for every volume."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        return self.output


def test_probabilities_are_averaged() -> None:
    outputs = [5 * torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    members, volume = [ConstantLogits(output) for output in outputs], torch.zeros(1)
    averaged = Ensemble(members, mean_of_labels)(volume).softmax(1)
    torch.testing.assert_close(averaged, torch.stack([output.softmax(1) for output in outputs]).mean(0))
    averaged = Ensemble(members, mean_of_regions)(volume).sigmoid()
    torch.testing.assert_close(averaged, torch.stack([output.sigmoid() for output in outputs]).mean(0))
    torch.testing.assert_close(Ensemble(members, mean)(volume), torch.stack(outputs).mean(0))


@pytest.fixture
def others(tiny_runs: TinyRuns, tmp_path: Path) -> list[Path]:
    """Two more segmentors with perturbed weights of the shared one."""
    _, metadata = load_segmentor(tiny_runs.finetune)
    folders = []
    for seed in (1, 2):
        network, _ = load_segmentor(tiny_runs.finetune)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in network.out.parameters():
                parameter += torch.randn(parameter.shape, generator=generator)
        folders.append(tmp_path / f"other_{seed}")
        save_weights(folders[-1] / "segmentor.safetensors", network, metadata)
    return folders


def probabilities(run: Path, scan: Path, out: Path, **options: list[Path]) -> np.ndarray:
    api.predict(run, [scan], out, probabilities=True, **options)
    return open_image(out / "case_6_probabilities.nii.gz").read(3).array


def test_runs_given_before_the_scan_are_averaged(
    tiny_runs: TinyRuns, others: list[Path], tmp_path: Path, run_voxmim: RunVoxmim
) -> None:
    scan, runs = tiny_runs.source / "imagesTr" / "case_6.nii.gz", [tiny_runs.finetune, *others]
    alone = [probabilities(run, scan, tmp_path / f"alone_{place}") for place, run in enumerate(runs)]
    assert run_voxmim("predict", *runs, scan, "--out", tmp_path / "all", "--probabilities")[0] == 0
    together = open_image(tmp_path / "all" / "case_6_probabilities.nii.gz").read(3).array
    np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 0.1


def test_small_components_are_removed_from_labels_for_which_every_run_says_so(
    tiny_runs: TinyRuns, others: list[Path]
) -> None:
    for run, cleaned in zip(others, (["bone", "fat"], ["fat"]), strict=True):
        network, metadata = load_segmentor(run)
        save_weights(run / "segmentor.safetensors", network, metadata | {"remove_small_components": cleaned})
    assert Segmentor.load(others[0]).cleaned == [1, 2]
    assert Segmentor.load(*others).cleaned == [2]
    assert Segmentor.load(*others, all_components=True).cleaned == []


def test_runs_with_other_windows_are_averaged(tiny_runs: TinyRuns, others: list[Path], tmp_path: Path) -> None:
    network, (_, metadata) = load_segmentor(others[0])[0], read_weights(others[0], "segmentor")
    smaller = {"crop": [8, 8, 8], "overlap": 0.25, "window": [-100.0, 100.0]}
    save_weights(others[0] / "segmentor.safetensors", network, metadata | smaller)
    scan, runs = tiny_runs.source / "imagesTr" / "case_6.nii.gz", [tiny_runs.finetune, *others]
    alone = [probabilities(run, scan, tmp_path / f"alone_{place}") for place, run in enumerate(runs)]
    together = probabilities(runs[0], scan, tmp_path / "all", ensemble=runs[1:])
    np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=1e-5)


def test_an_ensemble_is_evaluated_and_saved_only_if_requested(
    tiny_runs: TinyRuns, others: list[Path], tmp_path: Path
) -> None:
    before = set(tiny_runs.finetune.iterdir())
    result = api.evaluate(tiny_runs.finetune, tiny_runs.store, json_file=tmp_path / "all.json", ensemble=others)
    assert len(result["cases"]) == 2
    assert (tmp_path / "all.json").is_file()
    assert set(tiny_runs.finetune.iterdir()) == before


def test_incompatible_runs_are_refused(tiny_runs: TinyRuns, tiny_sorted: Sorted, tmp_path: Path) -> None:
    scan = tiny_runs.source / "imagesTr" / "case_6.nii.gz"
    network, (_, metadata) = load_segmentor(tiny_runs.finetune)[0], read_weights(tiny_runs.finetune, "segmentor")
    other = tmp_path / "other"
    save_weights(other / "segmentor.safetensors", network, metadata | {"labels": {"1": "bone", "2": "liver"}})
    with pytest.raises(
        WeightsError, match=r"other: its labels is .*liver.* only runs that agree in it can be averaged"
    ):
        api.predict(tiny_runs.finetune, [scan], tmp_path, ensemble=[other])
    preparation = metadata["preparation"] | {"spacing": [9.0, 9.0, 9.0]}
    save_weights(other / "segmentor.safetensors", network, metadata | {"preparation": preparation})
    with pytest.raises(
        WeightsError,
        match=r"other: its spacing is \[9.0, 9.0, 9.0\], but .* only runs that agree in it can be averaged",
    ):
        api.predict(tiny_runs.finetune, [scan], tmp_path, ensemble=[other])
    with pytest.raises(WeightsError, match="no segmentor"):
        api.predict(tiny_runs.finetune, [scan], tmp_path, ensemble=[tiny_sorted.run])
