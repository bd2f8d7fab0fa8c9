"""The Swin segmentor, compared with MONAI's, at every level, and on odd grids."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks.nets import SwinUNETR as MonaiSwinUNETR
from torch import nn

from voxmim.networks.patches import Triple
from voxmim.networks.swin import Swin, SwinSettings
from voxmim.networks.swin_unetr import SwinUNETR
from voxmim.settings import UNETRSettings

# MONAI's names for the parts of a decoder with four stages.
MONAI_NAMES = {
    "encoder.swin": "swinViT",
    "stem": "encoder1",
    "skips.0": "encoder2",
    "skips.1": "encoder3",
    "skips.2": "encoder4",
    "bottom": "encoder10",
    "ups.0": "decoder5",
    "ups.1": "decoder4",
    "ups.2": "decoder3",
    "ups.3": "decoder2",
    "last": "decoder1",
    "out": "out",
}


def make_swin(channels: int, patch: Triple, **settings: Any) -> Swin:
    return Swin(SwinSettings(patch, **{"last_merge": True, **settings}), channels)


def make_segmentor(patch: int, stem: bool = True, feature_size: int = 4, stages: int = 3) -> SwinUNETR:
    torch.manual_seed(0)
    encoder = make_swin(
        2, (patch,) * 3, width=6, depths=(2, *(1,) * (stages - 1)), heads=(1, 2, 3, 4)[:stages], window=3
    )
    return SwinUNETR(encoder, 3, UNETRSettings(feature_size, stem))


def test_with_patches_of_2_the_segmentor_agrees_with_monai() -> None:
    torch.manual_seed(0)
    other = MonaiSwinUNETR(in_channels=4, out_channels=3, feature_size=12, depths=(2, 1, 2, 1), window_size=4).eval()
    encoder = make_swin(4, (2, 2, 2), width=12, depths=(2, 1, 2, 1), heads=(3, 6, 12, 24), window=4)
    network = SwinUNETR(encoder, 3, UNETRSettings(12)).eval()
    state = other.state_dict()
    for ours, theirs in MONAI_NAMES.items():
        part = {key.removeprefix(f"{theirs}."): state.pop(key) for key in list(state) if key.startswith(f"{theirs}.")}
        network.get_submodule(ours).load_state_dict(part)
    assert not state
    volume = torch.randn(1, 4, 32, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(volume), other(volume), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stem", [True, False])
@pytest.mark.parametrize(("patch", "grid"), [(2, (8, 16, 16)), (4, (8, 16, 8)), (2, (10, 9, 13)), (4, (9, 11, 6))])
def test_every_voxel_gets_logits_and_every_parameter_a_gradient(patch: int, grid: Triple, stem: bool) -> None:
    network = make_segmentor(patch, stem)
    volume = torch.randn(1, 2, *(patch * g for g in grid))
    logits = network(volume)
    assert logits.shape == (1, 3, *volume.shape[2:])
    (logits * torch.randn_like(logits)).sum().backward()
    not_finite = [name for name, p in network.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not_finite == []
    without_gradient = [name for name, p in network.named_parameters() if not p.grad.any()]
    assert without_gradient == []


@pytest.mark.parametrize("patch", [2, 4])
@pytest.mark.parametrize("stages", [2, 4])
def test_every_level_has_the_expected_shape(patch: int, stages: int) -> None:
    grid = (2**stages, 2 * 2**stages, 2**stages)
    network = make_segmentor(patch, stages=stages).eval()
    shapes: dict[str, tuple[int, ...]] = {}

    def record(name: str) -> object:
        return lambda _module, _inputs, output: shapes.update({name: tuple(output.shape[1:])})

    for i, module in enumerate(network.skips):
        module.register_forward_hook(record(f"skip {i}"))
    for i, module in enumerate(network.ups):
        module.register_forward_hook(record(f"up {stages - 1 - i}"))
    for name in ("bottom", "stem", "last"):
        network.get_submodule(name).register_forward_hook(record(name))
    for module in network.between:
        module.register_forward_hook(record("between"))
    with torch.no_grad():
        network(torch.randn(1, 2, *(patch * g for g in grid)))

    channels = [4 * 2**level for level in range(stages - 1)] + [6 * 2 ** (stages - 1)]
    expected = {"bottom": (6 * 2**stages, 1, 2, 1)}
    for level in range(stages):
        for name in ("skip", "up"):
            expected[f"{name} {level}"] = (channels[level], *(g // 2**level for g in grid))
    for name in ("stem", "last"):
        expected[name] = (4, *(g * patch for g in grid))
    if patch == 4:
        expected["between"] = (4, *(g * 2 for g in grid))
    assert shapes == expected


def test_the_feature_size_is_the_width_at_full_resolution() -> None:
    assert make_segmentor(2, feature_size=5).out.conv.conv.in_channels == 5


@pytest.mark.parametrize("stem", [True, False])
@pytest.mark.parametrize("patch", [2, 4])
def test_without_a_stem_the_output_depends_on_the_encoder_only(patch: int, stem: bool) -> None:
    network = make_segmentor(patch, stem, stages=2).eval()
    nn.init.zeros_(network.encoder.swin.patch_embed.proj.weight)  # the encoder ignores the volume
    shape = (1, 2, *(patch * g for g in (4, 8, 4)))
    assert torch.equal(network(torch.randn(shape)), network(torch.randn(shape))) != stem


@pytest.mark.parametrize("training", [True, False])
def test_a_volume_of_a_single_deepest_cell_is_refused_with_the_required_size(training: bool) -> None:
    network = make_segmentor(2).train(training)
    with pytest.raises(ValueError, match=r"\(16, 14, 16\) voxels is too small: .* exceed \(16, 16, 16\)"):
        network(torch.randn(1, 2, 16, 14, 16))
    assert network(torch.randn(1, 2, 16, 14, 18)).shape == (1, 3, 16, 14, 18)


def test_a_volume_that_is_not_a_multiple_of_the_patch_is_refused() -> None:
    with pytest.raises(ValueError, match="not a whole number of patches"):
        make_segmentor(4)(torch.randn(1, 2, 32, 34, 32))


@pytest.mark.parametrize("stem", [True, False])
@pytest.mark.parametrize("patch", [2, 4])
def test_an_encoder_with_two_feature_maps_has_a_decoder(patch: int, stem: bool) -> None:
    encoder = make_swin(1, (patch,) * 3, width=4, depths=(1, 1), heads=(1, 2), window=2, last_merge=False)
    assert len(encoder.widths) == 2
    volume = torch.randn(1, 1, *(patch * g for g in (4, 6, 4)))
    assert SwinUNETR(encoder, 3, UNETRSettings(12, stem))(volume).shape == (1, 3, *volume.shape[2:])


def test_the_direct_path_starts_at_the_deepest_feature_map() -> None:
    encoder = make_swin(1, (2, 2, 2), width=4, depths=(1, 1), heads=(1, 2), window=2)
    network, volume = SwinUNETR(encoder, 3, UNETRSettings(4, direct=True)), torch.randn(1, 1, 8, 12, 8)
    both = network(volume)
    torch.nn.init.zeros_(network.out.conv.conv.weight)
    torch.nn.init.zeros_(network.out.conv.conv.bias)
    alone = network(volume)
    torch.testing.assert_close(alone, network.direct(encoder.maps(volume)[-1], volume))
    assert not torch.allclose(both, alone)
