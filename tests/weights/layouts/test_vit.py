"""ViTs of other packages and ours give the same outputs with the same weights."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from monai.networks.nets import MaskedAutoEncoderViT
from monai.networks.nets import ViT as MonaiViT
from torch import Tensor, nn

from voxmim.networks.patches import Triple
from voxmim.networks.positions import resize_positions
from voxmim.networks.vit import ViT, ViTSettings
from voxmim.weights.layouts import Checkpoint, Imported, Request, convert
from weights_helpers import assert_same, perturbed, random

PATCH: Triple = (2, 4, 3)
CROP: Triple = (4, 12, 12)
SIZES = {"hidden_size": 24, "mlp_dim": 36, "num_layers": 3, "num_heads": 3}
MAE_SIZES = SIZES | {"decoder_hidden_size": 12, "decoder_num_layers": 1, "decoder_num_heads": 2}
REQUEST = Request(2, PATCH, CROP)


def monai_vit(**changes: Any) -> nn.Module:
    return perturbed(MonaiViT(2, CROP, PATCH, **SIZES | changes))


def monai_mae(**changes: Any) -> nn.Module:
    return perturbed(MaskedAutoEncoderViT(2, CROP, PATCH, **MAE_SIZES | changes))


def imported(state: dict[str, Tensor], request: Request, layout: str) -> Imported:
    name, weights = convert([Checkpoint(state)], request)
    assert name == layout
    return weights


def our_vit(weights: Imported) -> ViT:
    """Our ViT with the imported settings, and every one of its tensors."""
    settings: dict[str, Any] = {**weights.settings, "patch": tuple(weights.settings["patch"]), "heads": 3}
    channels = weights.tensors["embed.weight"].shape[1] // torch.Size(settings["patch"]).numel()
    vit = ViT(ViTSettings(**settings), channels, weights.crop).eval()
    vit.load_state_dict(weights.tensors)
    return vit


@pytest.mark.parametrize("prefix", ["", "module.", "module.vit."])
@pytest.mark.parametrize("positions", ["learnable", "sincos", "none"])
@pytest.mark.parametrize(("embedding", "bias"), [("perceptron", False), ("conv", True)])
def test_monais_vit_gives_the_same_features(prefix: str, positions: str, embedding: str, bias: bool) -> None:
    foreign = monai_vit(proj_type=embedding, pos_embed_type=positions, qkv_bias=bias)
    state = {prefix + name: tensor for name, tensor in foreign.state_dict().items()}
    weights = imported(state, REQUEST, "monai_vit")
    assert weights.unused == [name for name in state if "norm_cross_attn" in name]
    volume = random(2, 2, *CROP)
    last, states = foreign(volume)
    assert_same(our_vit(weights).hidden_states(volume, [1, 2, 3]), [*states[:2], last])


def test_the_class_token_of_monais_vit_becomes_a_register() -> None:
    foreign, volume = monai_vit(classification=True), random(2, 2, *CROP)
    weights = imported(foreign.state_dict(), REQUEST, "monai_vit")
    assert {name for name in weights.unused if "norm_cross_attn" not in name} == {
        "classification_head.0.weight", "classification_head.0.bias"
    }  # fmt: skip
    *_, last = foreign(volume)[1]
    assert_same(our_vit(weights)(volume), foreign.norm(last)[:, 1:])


@pytest.mark.parametrize("positions", ["learnable", "sincos"])
@pytest.mark.parametrize("embedding", ["perceptron", "conv"])
def test_monais_masked_autoencoder_gives_the_same_features_of_visible_patches(positions: str, embedding: str) -> None:
    foreign = monai_mae(proj_type=embedding, pos_embed_type=positions)
    weights = imported(foreign.state_dict(), REQUEST, "monai_mae")
    assert all(re.match("decoder_|mask_tokens", name) or "norm_cross_attn" in name for name in weights.unused)
    volume = random(2, 2, *CROP)
    visible: list[Tensor] = []
    encoded: list[Tensor] = []
    masking = foreign._masking

    def noted(*args: object, **settings: object) -> tuple[Tensor, ...]:
        result = masking(*args, **settings)
        visible.append(result[1])
        return result

    foreign._masking = noted
    foreign.blocks.register_forward_hook(lambda _module, _inputs, output: encoded.append(output[:, 1:]))
    foreign(volume)
    assert visible[0].shape == (2, 6)
    assert_same(our_vit(weights)(volume, visible[0]), encoded[0])


class TimmViT(nn.Module):
    """A ViT encoder with timm's names on torch's blocks: for images or volumes, with LayerScale and block chunks."""

    def __init__(self, patch: tuple[int, ...], grid: tuple[int, ...], channels: int = 3, scale: bool = False) -> None:
        super().__init__()
        convolution = nn.Conv2d if len(patch) == 2 else nn.Conv3d
        tokens = 1 + torch.Size(grid).numel()
        self.with_class = True
        self.patch_embed = nn.ModuleDict({"proj": convolution(channels, 24, patch, patch)})  # type: ignore[arg-type]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 24))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, 24))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 12))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, tokens, 12))
        self.blocks = nn.ModuleList(self.block(scale) for _ in range(3))
        self.decoder_blocks = nn.ModuleList(self.block(scale) for _ in range(1))
        self.norm = nn.LayerNorm(24)

    def block(self, scale: bool) -> nn.Module:
        parts: dict[str, nn.Module] = {
            "norm1": nn.LayerNorm(24),
            "attn": nn.ModuleDict({"qkv": nn.Linear(24, 72), "proj": nn.Linear(24, 24)}),
            "norm2": nn.LayerNorm(24),
            "mlp": nn.ModuleDict({"fc1": nn.Linear(24, 36), "fc2": nn.Linear(36, 24)}),
        }
        if scale:
            for name in ("ls1", "ls2"):
                parts[name] = nn.ParameterDict({"gamma": nn.Parameter(torch.ones(24))})  # type: ignore[assignment]
        return nn.ModuleDict(parts)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, *size) to (B, *grid, 24)."""
        features = self.patch_embed["proj"](image)
        tokens = features.flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        if self.with_class:
            tokens = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1), tokens], 1)
        for block in self.blocks:
            normed, attention = block["norm1"](tokens).transpose(0, 1), block["attn"]
            mixed, _ = nn.functional.multi_head_attention_forward(
                normed, normed, normed, 24, 3, attention["qkv"].weight, attention["qkv"].bias, None, None, False, 0.0,
                attention["proj"].weight, attention["proj"].bias, need_weights=False,
            )  # fmt: skip
            tokens = tokens + mixed.transpose(0, 1) * (block["ls1"]["gamma"] if "ls1" in block else 1)
            mlp = block["mlp"]
            hidden = mlp["fc2"](nn.functional.gelu(mlp["fc1"](block["norm2"](tokens))))
            tokens = tokens + hidden * (block["ls2"]["gamma"] if "ls2" in block else 1)
        return self.norm(tokens[:, int(self.with_class) :]).unflatten(1, features.shape[2:])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("with_class", "depth"), [(True, 1), (False, 1), (False, 4)])
def test_a_scan_that_is_constant_along_z_has_the_features_of_its_slice(
    channels: int, with_class: bool, depth: int
) -> None:
    """With a class token only for one patch along Z, since more patches change its weight in the attention."""
    foreign, grey = perturbed(TimmViT((2, 4), (4, 4))), random(2, 1, 8, 16)
    foreign.with_class = with_class
    weights = imported(foreign.state_dict(), Request(channels, (2, 4, 3), (8, 16, 3 * depth)), "mae_2d")
    assert {name.split(".")[0] for name in weights.unused} == {"mask_token", "decoder_pos_embed", "decoder_blocks"}
    if not with_class:
        del weights.tensors["registers"]
        weights.settings["registers"] = 0
    volume = grey[..., None].expand(-1, channels, -1, -1, 3 * depth)
    expected = foreign(grey.expand(-1, 3, -1, -1))[:, :, :, None].expand(-1, -1, -1, depth, -1)
    assert_same(our_vit(weights)(volume).reshape(expected.shape), expected)


def test_positions_of_2d_weights_are_interpolated_in_the_plane_and_repeated_along_z() -> None:
    foreign = perturbed(TimmViT((2, 4), (4, 4)))
    weights = imported(foreign.state_dict(), Request(1, (2, 4, 3), (12, 12, 15)), "mae_2d")
    plane = resize_positions(foreign.pos_embed[0, 1:].detach(), (4, 4, 1), (6, 3, 1)).reshape(6, 3, 1, 24)
    assert_same(weights.tensors["positions"].reshape(6, 3, 5, 24), plane.expand(-1, -1, 5, -1))


@pytest.mark.parametrize("chunks", [False, True])
@pytest.mark.parametrize("scale", [False, True])
def test_a_3d_vit_with_timms_names_and_layer_scale_gives_the_same_features(scale: bool, chunks: bool) -> None:
    foreign = perturbed(TimmViT((2, 4, 3), (2, 3, 4), channels=2, scale=scale))
    state = {f"teacher.backbone.{name}": tensor for name, tensor in foreign.state_dict().items()}
    if chunks:  # as blocks are saved in DINOv2
        state = {re.sub(r"blocks\.(\d)\.", r"blocks.0.\1.", name): tensor for name, tensor in state.items()}
    weights = imported(state, Request(2, None, CROP), "vit_3d")
    volume = random(2, 2, *CROP)
    assert_same(our_vit(weights)(volume).reshape(2, 2, 3, 4, 24), foreign(volume))


def test_a_patch_or_grid_that_differs_from_the_weights_is_refused() -> None:
    linear, convolution = (monai_vit(proj_type=kind).state_dict() for kind in ("perceptron", "conv"))
    pictures = perturbed(TimmViT((2, 4), (4, 4))).state_dict()
    flat = MonaiViT(2, CROP[:2], PATCH[:2], spatial_dims=2, **SIZES).state_dict()  # type: ignore[arg-type]
    for state, patch, crop, match in (
        (linear, (4, 4, 4), CROP, "the embedding has 48 inputs"),
        (linear, None, CROP, "24 inputs of the embedding are not those of a cube; give --set vit.patch"),
        (convolution, (4, 2, 3), CROP, r"the patch is \(2, 4, 3\), not \(4, 2, 3\)"),
        (convolution, PATCH, (4, 8, 12), "24 positions are not those of a grid"),
        (convolution, PATCH, None, "24 positions are not those of a cube; give --set crop"),
        (convolution, PATCH, (5, 12, 12), "is not a multiple of the patch"),
        (flat, PATCH, CROP, r"the patch is \(2, 4\), but a ViT on scans needs three axes"),
        (pictures, (4, 4, 4), CROP, r"the patch is \(2, 4\), not \(4, 4\)"),
        (pictures | {"pos_embed": torch.zeros(1, 16, 24)}, PATCH, CROP, "15 positions are not those of a square"),
    ):
        with pytest.raises(ValueError, match=match):
            convert([Checkpoint(state)], Request(2, patch, crop))
    with pytest.raises(ValueError, match="the weights are for 2 channels, not 1"):
        convert([Checkpoint(convolution)], Request(1, PATCH, CROP))


def test_blocks_with_unsupported_parts_are_refused() -> None:
    gated = monai_vit().state_dict() | {"blocks.0.mlp.gate.weight": torch.ones(24, 24)}
    with pytest.raises(ValueError, match=r"our ViT has no place for blocks\.0\.mlp\.gate\.weight"):
        convert([Checkpoint(gated)], REQUEST)


def test_an_unknown_layout_is_refused_with_its_tensor_names_and_the_known_layouts() -> None:
    for network in (ViT(ViTSettings(PATCH, 24, 1, 3), 2, CROP), nn.Sequential(nn.Linear(2, 2))):
        first = next(iter(network.state_dict()))
        with pytest.raises(ValueError, match=rf"it holds {first}, .*; the known layouts are monai_mae, monai_vit, "):
            convert([Checkpoint(network.state_dict())], Request())
    with pytest.raises(ValueError, match="it holds no named tensors; the known layouts are"):
        convert([], Request())
