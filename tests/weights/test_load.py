"""Loading weights: each tensor is reported, adapted if possible, and too few matching ones are refused."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from voxmim.errors import WeightsError
from voxmim.networks.build import build_encoder
from voxmim.networks.positions import resize_positions
from voxmim.networks.resenc import ResEncSettings
from voxmim.networks.segresnet import SegResNetSettings
from voxmim.networks.swin import SwinSettings
from voxmim.networks.unet import UNetSettings
from voxmim.networks.vit import ViT, ViTSettings
from voxmim.weights.adapt import Inputs, adapt
from voxmim.weights.files import save_weights
from voxmim.weights.load import LoadReport, load_encoder, load_into

VIT = ViTSettings(patch=(4, 4, 4), width=24, depth=2, heads=2)
LEARNED = replace(VIT, position_embedding="learned")
OTHERS = [
    SwinSettings((2, 2, 2), 12, (1, 1), (2, 2), 2),
    UNetSettings(4, (1, 1)),
    ResEncSettings((4, 4), (1, 1)),
    ResEncSettings((4, 4), (1, 1), residual=False),
    SegResNetSettings(4, (1, 1)),
]
CROP = (8, 8, 12)
MR = ("T1", "T2", "FLAIR")


def make_vit(settings: ViTSettings = VIT, seed: int = 0, crop: tuple[int, int, int] = CROP, channels: int = 1) -> ViT:
    torch.manual_seed(seed)
    encoder = build_encoder(settings, channels, crop)
    assert isinstance(encoder, ViT)
    return encoder.eval()


def test_the_report_lists_loaded_adapted_missing_and_unused_tensors() -> None:
    origin, network = make_vit(LEARNED, crop=(8, 8, 16)), make_vit(LEARNED, seed=1)
    tensors = origin.state_dict() | {"extra": torch.zeros(2)}
    del tensors["norm.bias"]
    kept = network.norm.bias.detach().clone().fill_(3.0)
    with torch.no_grad():
        network.norm.bias.fill_(3.0)
    inputs = Inputs.of(("CT",), (4, 4, 4), (8, 8, 16)), Inputs.of(("CT",), (4, 4, 4), CROP)
    report = load_into(network, tensors, "file", inputs=inputs)
    assert report.adapted == {"positions": "grid (2, 2, 4) to (2, 2, 3)"}
    assert report.missing == {"norm.bias": "not in the file, (24,) in the network"}
    assert report.unused == ["extra"]
    assert sorted([*report.loaded, "positions", "norm.bias"]) == sorted(network.state_dict())
    total = sum(tensor.numel() for tensor in network.state_dict().values())
    assert report.fraction == pytest.approx(1 - 24 / total)
    for text in ("1 adapted (positions: grid", "norm.bias", "extra", f"{report.fraction:.1%} of the encoder"):
        assert text in str(report)
    assert [row[:2] for row in report.rows()] == [
        ["loaded", str(len(report.loaded))], ["adapted", "1"], ["renamed", "0"], ["missing", "1"], ["unused", "1"],
        ["fraction of the encoder", f"{report.fraction:.1%}"],
    ]  # fmt: skip

    assert torch.equal(network.positions, resize_positions(origin.positions, (2, 2, 4), (2, 2, 3)))
    assert torch.equal(network.norm.bias, kept)
    for name in report.loaded:
        assert torch.equal(network.state_dict()[name], origin.state_dict()[name])


def test_only_the_first_of_many_names_are_shown() -> None:
    report = LoadReport(unused=list("abcdef"), renamed={"ours": "theirs"})
    assert str(report).startswith("tensors: 1 renamed (theirs to ours), 6 unused (a; b; c; ...); ")


@pytest.mark.parametrize("settings", [LEARNED, *OTHERS])
def test_with_the_same_inputs_every_tensor_is_copied_unchanged(settings: ViTSettings) -> None:
    torch.manual_seed(0)
    one, other = build_encoder(settings, 3, CROP), build_encoder(settings, 3, CROP)
    same = Inputs.of(MR, settings.patch, CROP)
    report = load_into(other, one.state_dict(), "file", inputs=(same, same))
    assert (report.fraction, report.adapted, report.missing, report.unused) == (1.0, {}, {}, [])
    torch.testing.assert_close(dict(other.state_dict()), dict(one.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("settings", [VIT, *OTHERS])
@pytest.mark.parametrize(
    ("new", "sources"), [(("flair", "T1", "T2"), (2, 0, 1)), (("T2",), (1,)), (("PD", "T1"), (None, 0))]
)
def test_each_channel_gets_its_own_kernel_by_name(
    settings: ViTSettings, new: tuple[str, ...], sources: tuple[int | None, ...]
) -> None:
    """Features with the new channels equal those of the old network with the corresponding scans."""
    torch.manual_seed(0)
    one, other = build_encoder(settings, 3, CROP).eval(), build_encoder(settings, len(new), CROP).eval()
    inputs = Inputs.of(MR, settings.patch, CROP), Inputs.of(new, settings.patch, CROP)
    report = load_into(other, one.state_dict(), "file", inputs=inputs)
    assert report.fraction == 1.0
    assert all(text.startswith("channels T1, T2, FLAIR to ") for text in report.adapted.values())
    assert all(("PD: the mean" in text) == ("PD" in new) for text in report.adapted.values())
    volume = torch.randn(1, len(new), *CROP)
    old_volume = torch.zeros(1, 3, *CROP)
    for place, source in enumerate(sources):
        scaled = volume[:, place] * 3 / len(new)
        if source is None:
            old_volume += scaled[:, None] / 3
        else:
            old_volume[:, source] += scaled
    torch.testing.assert_close(other.encode(volume), one.encode(old_volume), atol=1e-4, rtol=1e-4)


def test_a_single_channel_replaces_another_of_any_name() -> None:
    one, other = make_vit(), make_vit(seed=1)
    inputs = Inputs.of(("CT",), (4, 4, 4), CROP), Inputs.of(("T1 MRI",), (4, 4, 4), CROP)
    assert load_into(other, one.state_dict(), "file", inputs=inputs).adapted == {}
    assert torch.equal(other.embed.weight, one.embed.weight)


def test_the_encoder_inside_a_pretext_is_found_by_its_prefix() -> None:
    origin, network = make_vit(), make_vit(seed=1)
    tensors = {f"encoder.{name}": tensor for name, tensor in origin.state_dict().items()}
    report = load_into(network, tensors | {"decoder.weight": torch.zeros(3)}, "file", prefix="encoder.")
    assert report.fraction == 1.0
    assert report.unused == []
    volume = torch.randn(1, 1, *CROP)
    assert torch.equal(network(volume), origin(volume))


def test_loading_less_than_nine_tenths_is_refused_with_the_first_mismatches() -> None:
    shallow, deep = make_vit(), make_vit(replace(VIT, depth=3))
    mismatch = r"blocks\.2\.norm1\.weight: not in the file, \(24,\) in the network"
    with pytest.raises(WeightsError, match=rf"^some/file: only \d\d% .* {mismatch}; .* use the recipe"):
        load_into(deep, shallow.state_dict(), "some/file")
    assert load_into(deep, shallow.state_dict(), "some/file", min_fraction=0.5).missing
    with pytest.raises(WeightsError, match=r"embed\.weight: \(24, 64\) in the file, \(48, 64\) in the network"):
        load_into(make_vit(replace(VIT, width=48)), shallow.state_dict(), "some/file")


def test_a_tensor_of_another_shape_is_missing_and_not_partly_copied() -> None:
    network = make_vit()
    before = network.embed.weight.detach().clone()
    tensors = make_vit(seed=1).state_dict() | {"embed.weight": torch.zeros(24, 65)}
    missing = load_into(network, tensors, "file", min_fraction=0.5).missing
    assert missing == {"embed.weight": "(24, 65) in the file, (24, 64) in the network"}
    assert torch.equal(network.embed.weight, before)


def test_weights_that_contradict_their_metadata_are_refused() -> None:
    claimed = Inputs.of(("CT",), (4, 4, 8), CROP)
    with pytest.raises(WeightsError, match=r"file: a tensor's shape .* contradicts its metadata"):
        load_into(make_vit(), make_vit().state_dict(), "file", inputs=(claimed, Inputs.of(("CT",), (4, 4, 4), CROP)))


def test_an_encoder_is_adapted_to_other_crops_patches_and_channels(tmp_path: Path) -> None:
    settings = replace(VIT, position_embedding="learned")
    path, plain = tmp_path / "encoder.safetensors", make_vit(settings)
    preparation = {"spacing": [1.0, 1.0, 2.0], "intensity": "ct", "channels": ["CT"]}
    about = {"kind": "encoder", "preparation": preparation, "window": [-175.0, 250.0], "crop": list(CROP)}
    save_weights(path, plain, about | {"vit": asdict(settings)})
    encoder = load_encoder(path, crop=(16, 16, 16), patch=(8, 4, 4), channels=("T1", "T2"))
    assert isinstance(encoder, ViT)
    assert (encoder.channels, encoder.patch, encoder.grid) == (2, (8, 4, 4), (2, 4, 4))
    adapted, _ = adapt(
        plain.state_dict(),
        Inputs.of(["CT"], (4, 4, 4), CROP),
        Inputs.of(["T1", "T2"], (8, 4, 4), (16,) * 3),
        ("embed.weight",),
    )
    torch.testing.assert_close(dict(encoder.state_dict()), adapted, rtol=0, atol=0)
    described = encoder.metadata
    assert (described["crop"], described["vit"]["patch"], described["preparation"]["channels"]) == (
        [16] * 3,
        [8, 4, 4],
        ["T1", "T2"],
    )
    same = load_encoder(path, crop=CROP, patch=(4, 4, 4), channels=("CT",))
    torch.testing.assert_close(dict(same.state_dict()), dict(plain.state_dict()), rtol=0, atol=0)
    with pytest.raises(WeightsError, match=r"the crop \(8, 8, 12\) is not a multiple of the patch \(16, 16, 16\)"):
        load_encoder(path, patch=(16, 16, 16))
