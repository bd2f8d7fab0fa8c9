"""Segmentors as MONAI bundles; tests/export/test_page.py runs one, where voxmim is not installed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import verify_metadata
from monai.data import MetaTensor
from torch import nn

from conftest import TinyRuns
from voxmim import api
from voxmim.errors import MissingPackageError, WeightsError
from voxmim.export.bundle_transforms import Network, PrepareScand, RestoreLabelsd
from voxmim.export.monai_bundle import about, copy_modules, export_monai_bundle, inference
from voxmim.images.components import remove_small_components
from voxmim.images.grid import Grid, Volume
from voxmim.images.intensity import window
from voxmim.networks.build import ENCODERS, build_encoder, build_segmentor
from voxmim.phantoms.head import draw_head
from voxmim.settings import UNETRSettings
from voxmim.store.index import Preparation
from voxmim.store.prepare import prepare_volume
from voxmim.tasks.segmentation.inference import original_label_map
from voxmim.tasks.segmentation.structures import Structures
from voxmim.weights.files import read_weights

SCHEMA = Path(__file__).with_name("monai_metadata_schema.json")
TILTED = np.array([[0.1, 0, 2, 5], [-1, 0.1, 0, 9], [0, -1.5, 0.2, 4], [0, 0, 0, 1.0]])
TWO_CHANNELS: dict[str, Any] = {
    "preparation": {"spacing": [2, 2, 2], "intensity": "mr", "channels": ["T1", "T2"]},
    "window": [-400, 400], "crop": [8, 8, 8], "overlap": 0.5, "labels": {"1": "x", "2": "y"}, "values": [0, 1, 2],
    "kind": "segmentor", "encoder": "resenc", "resenc": {},
}  # fmt: skip
LABELS = Structures({2: "x", 7: "y"}, values=(0, 2, 7))
REGIONS = Structures({1: "x", 2: "y"}, {"all": (1, 2), "y": (2,), "x": (1,)})


class Ramp(nn.Module):
    """A layer with a tensor that is made in each forward pass, as in a Swin transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv3d(2, 3, 1)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        return self.layer(volume) * torch.linspace(0, 1, 8, device=volume.device)


def resenc() -> nn.Module:
    encoder = build_encoder(ENCODERS["resenc"].settings(widths=(4, 6), blocks=(1, 1)), 2, (8, 8, 8))
    return build_segmentor(encoder, UNETRSettings(feature_size=4), 3).eval()


@pytest.mark.parametrize("make", [resenc, Ramp])
def test_an_exported_network_gives_the_same_output_for_any_batch_size_and_can_change_device(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = make()
    monkeypatch.setattr("voxmim.export.comparison.load_segmentor", lambda run: (network, TWO_CHANNELS))
    assert export_monai_bundle(tmp_path, tmp_path / "bundle").sound
    file, volume = tmp_path / "bundle" / "models" / "model.pt2", torch.randn(5, 2, 8, 8, 8)
    loaded = Network(file)
    loaded.load_state_dict(torch.load(file.with_suffix(".pt"), weights_only=True))
    assert torch.allclose(loaded.eval()(volume), network(volume).softmax(dim=1), atol=1e-5)
    # The meta device accepts no tensor of another device, so this would fail if one were left on the CPU.
    assert Network(file, "meta")(volume.to("meta")).device == torch.device("meta")


def test_the_metadata_is_valid_for_monai(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    _, metadata = read_weights(tiny_runs.finetune, "segmentor")
    for content in (about(metadata), about(TWO_CHANNELS)):
        verify_metadata(content, SCHEMA)
    assert content["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "x", "2": "y"}
    with pytest.raises(ValueError, match="'task' is a required property"):
        verify_metadata({name: value for name, value in content.items() if name != "task"}, SCHEMA)


def test_the_bundle_prepares_a_scan_as_voxmim_does() -> None:
    volume, _ = draw_head(3)
    rotated = Volume(volume.array.transpose(0, 3, 1, 2)[:, ::-1], TILTED)
    preparation = Preparation((2.0, 2.5, 3.0), "mr", tuple("abcd"))
    ours = prepare_volume(rotated, preparation, Path("scan"))
    transform = PrepareScand("image", preparation.spacing, "mr", (0, 1), True, preparation.channels)
    scan = MetaTensor(rotated.array.copy(), torch.from_numpy(TILTED), {"filename_or_obj": "scan.nii.gz"})
    theirs = transform({"image": scan})["image"]
    np.testing.assert_array_equal(theirs.numpy(), window(ours.image, "mr", (0, 1)))
    np.testing.assert_allclose(theirs.affine.numpy(), ours.grid.affine)
    two_channels = MetaTensor(scan[:2], meta=scan.meta)
    with pytest.raises(ValueError, match=r"scan\.nii\.gz: of the channels .* \(a, b, c, d\), the scan has 2\."):
        transform({"image": two_channels})


@pytest.mark.parametrize(
    "structures",
    [
        Structures({2: "x", 7: "y"}, values=(0, 2, 7)),
        Structures({1: "x", 2: "y"}, {"all": (1, 2), "y": (2,), "x": (1,)}),
    ],
)
def test_the_bundle_restores_labels_and_regions_to_the_grid_of_the_file_as_voxmim_does(structures: Structures) -> None:
    probabilities = torch.rand(3, 9, 8, 7, generator=torch.Generator().manual_seed(0))
    affine = np.array([[2, 0, 0, -1], [0, -1.5, 0, 9], [0, 0, 1, 4], [0, 0, 0, 1.0]])
    grid, original = Grid((9, 8, 7), np.diag([1.5, 1.5, 1.5, 1])), Grid((6, 8, 11), affine)
    whole = original_label_map(iter([(0, probabilities)]), grid, original, structures)
    ours = remove_small_components(whole, structures.values_of(["x"]))
    assert (ours != whole).any()
    meta = {"original_affine": affine, "spatial_shape": original.shape}
    metadata = {**TWO_CHANNELS, **structures.metadata(), "remove_small_components": ["x"]}
    settings = inference(metadata)["postprocessing"]["transforms"][0]
    restore = RestoreLabelsd("pred", settings["values"], settings["members"], settings["cleaned"])
    theirs = restore({"pred": MetaTensor(probabilities, torch.from_numpy(grid.affine), meta)})["pred"]
    assert len(np.unique(ours)) == 3
    np.testing.assert_array_equal(theirs[0].numpy(), ours)
    np.testing.assert_allclose(theirs.affine.numpy(), affine)


def test_the_scripts_of_a_bundle_do_not_import_voxmim(tmp_path: Path) -> None:
    copy_modules("voxmim.export.bundle_transforms", tmp_path)
    scripts = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert sorted(scripts) == [
        "__init__.py",
        "bundle_transforms.py",
        "components.py",
        "geometry.py",
        "grid.py",
        "intensity.py",
    ]
    assert not any(f"{word} voxmim" in text for text in scripts.values() for word in ("from", "import"))


class DataDependent(nn.Module):
    """A network that cannot be exported, since its control flow depends on voxel values."""

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        return volume if volume.sum() > 0 else -volume


def test_a_failed_export_gives_one_sentence_and_leaves_no_files(
    tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsError, match=r"there is no segmentor\.safetensors here"):
        api.export_weights(tiny_runs.pretrain, tmp_path / "bundle", "monai-bundle")
    monkeypatch.setattr("voxmim.export.comparison.load_segmentor", lambda run: (DataDependent(), TWO_CHANNELS))
    with pytest.raises(WeightsError, match=r"a part of this network has no counterpart in torch\.export") as exc_info:
        export_monai_bundle(tmp_path / "run", tmp_path / "bundle")
    assert "\n" not in str(exc_info.value)
    assert not list(tmp_path.iterdir())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(WeightsError, match="full: it exists already; name a new folder"):
        export_monai_bundle(tmp_path / "run", tmp_path / "full")


def test_a_missing_package_is_reported_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voxmim.errors.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"^--to monai-bundle needs fire, ignite: .*'voxmim\[export\]'"):
        export_monai_bundle(tmp_path, tmp_path / "bundle")
