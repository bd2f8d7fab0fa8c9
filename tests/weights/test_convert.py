"""Weights of other packages: their own networks beside ours, with the same weights, give the same."""

from __future__ import annotations

import re

import pytest
import torch
from monai.networks.nets import UNETR, MaskedAutoEncoderViT, SwinUNETR
from monai.networks.nets import ViT as MonaiViT
from monai.networks.nets.swin_unetr import SwinTransformer
from torch import Tensor, nn

from voxmim.networks.patches import Triple
from voxmim.networks.positions import resize_positions
from voxmim.networks.swin import Swin
from voxmim.networks.vit import ViT
from voxmim.weights.convert import (
    from_mae_2d,
    from_monai_swin,
    from_monai_vit,
    recognise,
    to_monai_swin_unetr,
    to_monai_unetr,
)

PATCH: Triple = (2, 4, 3)
GRID: Triple = (2, 3, 4)
CROP = (4, 12, 12)
SIZES = {"hidden_size": 24, "mlp_dim": 36, "num_layers": 3, "num_heads": 3}
MAE_SIZES = SIZES | {"decoder_hidden_size": 12, "decoder_num_layers": 1, "decoder_num_heads": 2}
SWIN = {"depths": (2, 1, 1, 1), "mlp_ratio": 2.0}


def shaken(network: nn.Module) -> nn.Module:
    """With no weight left where it stood at the start, not even a norm's; fixed positions stay."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return network.eval()


def monai_vit(**changes: object) -> nn.Module:
    return shaken(MonaiViT(2, CROP, PATCH, **SIZES | changes))  # type: ignore[arg-type]


def monai_mae(**changes: object) -> nn.Module:
    return shaken(MaskedAutoEncoderViT(2, CROP, PATCH, **MAE_SIZES | changes))  # type: ignore[arg-type]


def monai_swin(**changes: object) -> nn.Module:
    return shaken(SwinTransformer(1, 12, (2, 2, 2), (2, 2, 2), num_heads=(1, 2, 2, 2), **SWIN | changes))  # type: ignore[arg-type]


def our_vit(patch: Triple = PATCH, grid: Triple = GRID, channels: int = 2, **changes: object) -> ViT:
    settings = {"width": 24, "depth": 3, "heads": 3, "mlp_ratio": 1.5, "positions": "learned"} | changes
    return ViT(channels, patch, grid, **settings).eval()  # type: ignore[arg-type]


def our_swin(**changes: object) -> Swin:
    return Swin(1, (2, 2, 2), 12, window=2, **{"heads": (1, 2, 2, 2)} | SWIN | changes).eval()  # type: ignore[arg-type]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def assert_same(ours: Tensor | list[Tensor], theirs: Tensor | list[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prefix", ["", "module.", "module.vit."])
@pytest.mark.parametrize("positions", ["learnable", "sincos", "none"])
@pytest.mark.parametrize(("embedding", "bias"), [("perceptron", False), ("conv", True)])
def test_monais_vit_encodes_alike(prefix: str, positions: str, embedding: str, bias: bool) -> None:
    foreign = monai_vit(proj_type=embedding, pos_embed_type=positions, qkv_bias=bias)
    state = {prefix + name: tensor for name, tensor in foreign.state_dict().items()}
    assert recognise(state) == "monai_vit"
    tensors, left, _ = from_monai_vit(state, PATCH, GRID)
    assert left == [name for name in state if "norm_cross_attn" in name]
    ours, volume = our_vit(), random(2, 2, *CROP)
    ours.load_state_dict(tensors)
    last, states = foreign(volume)
    assert_same(ours.hidden_states(volume, [1, 2, 3]), [*states[:2], last])


def test_the_class_token_of_monais_vit_becomes_a_register() -> None:
    foreign, volume = monai_vit(classification=True), random(2, 2, *CROP)
    tensors, left, _ = from_monai_vit(foreign.state_dict(), PATCH, GRID)
    ours = our_vit(registers=1)
    ours.load_state_dict(tensors)
    assert {name for name in left if "norm_cross_attn" not in name} == {
        "classification_head.0.weight", "classification_head.0.bias"
    }  # fmt: skip
    *_, last = foreign(volume)[1]
    assert_same(ours(volume), foreign.norm(last)[:, 1:])


@pytest.mark.parametrize("positions", ["learnable", "sincos"])
@pytest.mark.parametrize("embedding", ["perceptron", "conv"])
def test_monais_masked_autoencoder_encodes_alike_what_it_sees(positions: str, embedding: str) -> None:
    foreign = monai_mae(proj_type=embedding, pos_embed_type=positions)
    assert recognise(foreign.state_dict()) == "monai_mae"
    tensors, left, _ = from_monai_vit(foreign.state_dict(), PATCH, GRID)
    assert all(re.match("decoder_|mask_tokens", name) or "norm_cross_attn" in name for name in left)
    ours, volume = our_vit(registers=1), random(2, 2, *CROP)
    ours.load_state_dict(tensors)
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
    assert_same(ours(volume, visible[0]), encoded[0])


@pytest.mark.parametrize(("old", "prefix"), [(False, "swinViT."), (True, "module."), (True, "module.swin_vit.")])
@pytest.mark.parametrize("bias", [False, True])
def test_monais_swin_encodes_alike_under_new_and_old_names(old: bool, prefix: str, bias: bool) -> None:
    foreign = monai_swin(qkv_bias=bias)
    state = {f"{prefix}{name}": tensor for name, tensor in foreign.state_dict().items()}
    if old:
        state = {name.replace("mlp.linear", "mlp.fc"): tensor for name, tensor in state.items()}
    heads = {f"{prefix}norm.weight": torch.ones(192), "module.rotation_head.weight": torch.ones(4, 192)}
    assert recognise(state | heads) == "monai_swin"
    tensors, left, _ = from_monai_swin(state | heads)
    assert left == list(heads)
    ours, volume = our_swin(), random(1, 1, 32, 32, 32)
    ours.load_state_dict(tensors)
    assert_same(ours.maps(volume), foreign(volume))


def test_old_names_are_those_that_monai_itself_loads() -> None:
    state = {
        f"module.{name}".replace("mlp.linear", "mlp.fc"): tensor for name, tensor in monai_swin().state_dict().items()
    }
    foreign = SwinUNETR(1, 2, feature_size=12, num_heads=(1, 2, 2, 2), window_size=2, **SWIN)
    foreign.load_from({"state_dict": state})
    theirs, ours = from_monai_swin(foreign.state_dict()), from_monai_swin(state)
    assert_same(list(ours.tensors.values()), list(theirs.tensors.values()))
    assert {name.split(".")[0] for name in theirs.left} >= {"encoder1", "decoder5", "out"}


class Picture(nn.Module):
    """A 2D masked autoencoder's encoder with its authors' names, on torch's own blocks."""

    def __init__(self, side: int, with_class: bool) -> None:
        super().__init__()
        self.with_class = with_class
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, 24, (2, 4), (2, 4))})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 24))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side**2, 24))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 12))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1 + side**2, 12))
        self.blocks = nn.ModuleList(self.block() for _ in range(3))
        self.decoder_blocks = nn.ModuleList(self.block() for _ in range(1))
        self.norm = nn.LayerNorm(24)

    def block(self) -> nn.Module:
        return nn.ModuleDict({
            "norm1": nn.LayerNorm(24),
            "attn": nn.ModuleDict({"qkv": nn.Linear(24, 72), "proj": nn.Linear(24, 24)}),
            "norm2": nn.LayerNorm(24),
            "mlp": nn.ModuleDict({"fc1": nn.Linear(24, 36), "fc2": nn.Linear(36, 24)}),
        })  # fmt: skip

    def forward(self, picture: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, rows, columns, 24)."""
        features = self.patch_embed["proj"](picture)
        tokens = features.flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        if self.with_class:
            tokens = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1), tokens], 1)
        for block in self.blocks:
            normed, attention = block["norm1"](tokens).transpose(0, 1), block["attn"]
            mixed, _ = nn.functional.multi_head_attention_forward(
                normed, normed, normed, 24, 3, attention["qkv"].weight, attention["qkv"].bias, None, None, False, 0.0,
                attention["proj"].weight, attention["proj"].bias, need_weights=False,
            )  # fmt: skip
            tokens = tokens + mixed.transpose(0, 1)
            mlp = block["mlp"]
            tokens = tokens + mlp["fc2"](nn.functional.gelu(mlp["fc1"](block["norm2"](tokens))))
        return self.norm(tokens[:, int(self.with_class) :]).unflatten(1, features.shape[2:])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("with_class", "depth"), [(True, 1), (False, 1), (False, 4)])
def test_a_scan_that_is_constant_along_z_is_encoded_as_its_slice_was(
    channels: int, with_class: bool, depth: int
) -> None:
    """With a class token on a grid of one patch along Z only: more of them outweigh it in the attention."""
    foreign, grey = shaken(Picture(4, with_class)), random(2, 1, 8, 16)
    assert recognise(foreign.state_dict()) == "mae_2d"
    grid: Triple = (4, 4, depth)
    tensors, left, _ = from_mae_2d(foreign.state_dict(), (2, 4, 3), grid, channels)
    assert {name.split(".")[0] for name in left} == {"mask_token", "decoder_pos_embed", "decoder_blocks"}
    if not with_class:
        del tensors["registers"]
    ours = our_vit((2, 4, 3), grid, channels, registers=int(with_class))
    ours.load_state_dict(tensors)
    volume = grey[..., None].expand(-1, channels, -1, -1, 3 * depth)
    expected = foreign(grey.expand(-1, 3, -1, -1))[:, :, :, None].expand(-1, -1, -1, depth, -1)
    assert_same(ours(volume).reshape(expected.shape), expected)


def test_positions_of_pictures_are_interpolated_in_the_plane_and_repeated_along_z() -> None:
    foreign = shaken(Picture(4, with_class=True))
    table = from_mae_2d(foreign.state_dict(), (2, 4, 3), (6, 3, 5)).tensors["positions"].reshape(6, 3, 5, 24)
    plane = resize_positions(foreign.pos_embed[0, 1:].detach(), (4, 4, 1), (6, 3, 1)).reshape(6, 3, 1, 24)
    assert_same(table, plane.expand(-1, -1, 5, -1))


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_a_vit_in_monais_unetr_has_the_same_hidden_states(positions: str) -> None:
    vit = shaken(our_vit((16, 16, 16), (2, 1, 3), depth=12, positions=positions)).double()
    foreign = UNETR(2, 3, (32, 16, 48), 4, 24, 36, 3, qkv_bias=True).eval().double()
    missing, unexpected = foreign.load_state_dict(to_monai_unetr(vit), strict=False)  # type: ignore[arg-type]
    assert not unexpected
    assert not [name for name in missing if name.startswith("vit.")]
    volume = random(1, 2, 32, 16, 48).double()
    last, states = foreign.vit(volume)
    assert_same(vit.hidden_states(volume, [*range(1, 13)]), [*states[:11], last])
    back = from_monai_vit(foreign.state_dict(), (16, 16, 16), (2, 1, 3)).tensors
    assert all(torch.equal(back[name], tensor) for name, tensor in vit.state_dict().items())


def test_a_swin_in_monais_swin_unetr_has_the_same_maps() -> None:
    swin = shaken(our_swin())
    foreign = SwinUNETR(1, 2, feature_size=12, num_heads=(1, 2, 2, 2), window_size=2, **SWIN).eval()  # type: ignore[arg-type]
    missing, unexpected = foreign.load_state_dict(to_monai_swin_unetr(swin), strict=False)  # type: ignore[arg-type]
    assert not unexpected
    assert not [name for name in missing if name.startswith("swinViT.")]
    volume = random(1, 1, 32, 32, 32)
    assert_same(foreign.swinViT(volume, True), swin.maps(volume))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"rotary": True}, "rotary"),
        ({"registers": 2}, "registers"),
        ({"depth": 3}, "12 blocks"),
        ({"patch": (8, 8, 8)}, "patches of 16"),
    ],
)
def test_a_vit_that_monais_unetr_cannot_be_is_not_exported(changes: dict[str, object], match: str) -> None:
    settings = {"patch": (16, 16, 16), "depth": 12} | changes
    with pytest.raises(ValueError, match=match):
        to_monai_unetr(our_vit(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"depths": (1, 1), "heads": (1, 1)}, {"last_merge": False}])
def test_a_swin_that_monais_swin_unetr_cannot_be_is_not_exported(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="halves the grid four times"):
        to_monai_swin_unetr(our_swin(**changes))


def test_a_patch_or_a_grid_that_was_not_the_foreign_one_is_refused() -> None:
    linear, convolution = (monai_vit(proj_type=kind).state_dict() for kind in ("perceptron", "conv"))
    flat = monai_vit_2d().state_dict()
    for state, patch, grid, match in (
        (linear, (4, 4, 4), GRID, "48 inputs of the embedding"),
        (convolution, (4, 2, 3), GRID, r"the patch is \(2, 4, 3\), not \(4, 2, 3\)"),
        (convolution, PATCH, (2, 2, 4), "24 positions"),
        (flat, PATCH, GRID, r"the patch is \(2, 4\)"),
    ):
        with pytest.raises(ValueError, match=match):
            from_monai_vit(state, patch, grid)  # type: ignore[arg-type]
    pictures = Picture(4, with_class=True).state_dict()
    with pytest.raises(ValueError, match=r"the patch is \(2, 4\), not \(4, 4\)"):
        from_mae_2d(pictures, (4, 4, 4), GRID)
    with pytest.raises(ValueError, match="15 positions"):
        from_mae_2d(pictures | {"pos_embed": torch.zeros(1, 16, 24)}, PATCH, GRID)


def monai_vit_2d() -> nn.Module:
    return MonaiViT(2, CROP[:2], PATCH[:2], spatial_dims=2, **SIZES)  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"use_v2": True}, {"patch_norm": True}, {"spatial_dims": 2}])
def test_a_swin_of_another_make_is_refused(changes: dict[str, object]) -> None:
    sizes = {"window_size": (2, 2), "patch_size": (2, 2)} if "spatial_dims" in changes else {}
    settings = {"window_size": (2, 2, 2), "patch_size": (2, 2, 2)} | SWIN | sizes | changes
    state = SwinTransformer(1, 12, num_heads=(1, 2, 2, 2), **settings).state_dict()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"no place for layers1c|no place for patch_embed\.norm|needs three axes"):
        from_monai_swin(state)


def test_blocks_with_parts_that_ours_lack_are_refused() -> None:
    scaled = monai_vit().state_dict() | {"blocks.0.ls1.gamma": torch.ones(24)}
    with pytest.raises(ValueError, match=r"no place for blocks\.0\.ls1\.gamma"):
        from_monai_vit(scaled, PATCH, GRID)


def test_weights_of_another_kind_are_named_and_unknown_ones_by_their_names() -> None:
    with pytest.raises(ValueError, match="weights of monai_swin, not of monai_vit or monai_mae"):
        from_monai_vit(monai_swin().state_dict(), PATCH, GRID)
    with pytest.raises(ValueError, match="weights of monai_vit, not of monai_swin"):
        from_monai_swin(monai_vit().state_dict())
    for network in (our_vit(), nn.Sequential(nn.Linear(2, 2))):
        with pytest.raises(ValueError, match=f"^{next(iter(network.state_dict()))}"):
            recognise(network.state_dict())
