"""Encoders from other packages and for them, through the command line, beside those packages' own networks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import MaskedAutoEncoderViT, SwinUNETR
from monai.networks.nets import ViT as MonaiViT
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from conftest import TINY_TRAINING, Tiny
from voxmim import api, cli
from voxmim.errors import RecipeError, StoreError, WeightsError
from voxmim.recipe import make_recipe, write_recipe
from voxmim.store.format import Store
from voxmim.training.pretrain import pretrain
from voxmim.training.run import Run
from voxmim.weights.files import load_encoder, read_weights

CROP = (16, 16, 8)
VIT = {"hidden_size": 24, "mlp_dim": 36, "num_layers": 2, "num_heads": 3}
SWIN = {"feature_size": 12, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 2, 4), "window_size": 3, "mlp_ratio": 2.0}
LIKE = {"spacing": (1.0, 1.0, 1.0), "intensity": "ct", "channels": ["CT"]}
QUICK = {"finetune.steps": 1, "finetune.batch": 1, "precision": "32", "unetr.feature_size": 4, "overlap": 0.0}


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Give says(argument, ...): run a command that succeeds; what it printed."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert not left.value.code, printed.err
        return printed.out

    return run


def shaken(network: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.eval()


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


# In


def test_monais_vit_is_imported_and_fine_tuned_in_other_patches(
    tiny: Tiny, tmp_path: Path, says: Callable[..., str]
) -> None:
    foreign = shaken(MonaiViT(1, (16, 16, 16), (8, 8, 8), **VIT))  # type: ignore[arg-type]
    file, out = tmp_path / "foreign.ckpt", tmp_path / "own"
    state = {f"module.{name}": tensor for name, tensor in foreign.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}, file)
    said = says("import", file, out, "--like", tiny.store, "--licence", "CC BY 4.0", "--set", "vit.heads=3")
    assert re.search(r"renamed +│ \d+ +│ .*module\.", said)
    assert re.search(r"resized +│ 2 +│ .*qkv\.bias: *zero", said)
    assert re.search(r"share of the encoder +│ 100\.0%", said)

    encoder, volume = load_encoder(out), torch.randn(1, 1, 16, 16, 16)
    assert_same(encoder(volume), foreign(volume)[0])
    about: dict[str, Any] = encoder.metadata  # type: ignore[assignment]
    assert about["crop"] == [16, 16, 16]
    assert about["preparation"] == read_weights_preparation(tiny.store)
    assert (about["data"]["licence"], about["imported"]["naming"]) == ("CC BY 4.0", "monai_vit")
    assert str(tmp_path) not in json.dumps(about)

    run = api.finetune(tiny.store, tmp_path / "segmentor", out, settings=QUICK | {"vit.patch": [4, 8, 8]})
    assert "patch (8, 8, 8) to (4, 8, 8)" in Run.open(run).about["transfer"]
    assert "grid (2, 2, 2) to (4, 2, 2)" in Run.open(run).about["transfer"]
    origin = read_weights(run / "segmentor.safetensors")[1]["init"]
    assert (origin["data"]["licence"], origin["imported"]["file"]) == ("CC BY 4.0", "foreign.ckpt")


def read_weights_preparation(store: Path) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(Store(store).preparation)))


def test_monais_masked_autoencoder_is_imported_with_its_class_token_as_a_register(tmp_path: Path) -> None:
    decoder = {"decoder_hidden_size": 12, "decoder_num_layers": 1, "decoder_num_heads": 2}
    foreign = shaken(MaskedAutoEncoderViT(2, (8, 8, 12), (4, 4, 4), proj_type="conv", **VIT, **decoder))  # type: ignore[arg-type]
    save_file(foreign.state_dict(), tmp_path / "foreign.safetensors")
    two = LIKE | {"channels": ["T1", "T2"]}
    with pytest.raises(WeightsError, match=r"12 positions are not those of a cube of patches, .* \(crop\)"):
        api.import_weights(tmp_path / "foreign.safetensors", tmp_path / "own", **two)  # type: ignore[arg-type]
    told = {"vit.heads": 3, "crop": [8, 8, 12]}
    with pytest.raises(WeightsError, match="the weights are for 2 channels, not 1"):
        api.import_weights(tmp_path / "foreign.safetensors", tmp_path / "own", **LIKE, settings=told)  # type: ignore[arg-type]
    transfer = api.import_weights(tmp_path / "foreign.safetensors", tmp_path / "own", **two, settings=told)  # type: ignore[arg-type]
    assert transfer.share == 1.0
    assert {name.split(".")[0] for name in transfer.skipped} >= {"decoder_blocks", "mask_tokens"}
    about: dict[str, Any] = load_encoder(tmp_path / "own").metadata  # type: ignore[assignment]
    assert (about["vit"]["registers"], about["vit"]["mlp_ratio"], about["vit"]["depth"]) == (1, 1.5, 2)


@pytest.mark.parametrize("old", [True, False])
def test_monais_swin_is_imported_with_all_its_settings(tiny: Tiny, tmp_path: Path, old: bool) -> None:
    foreign = shaken(SwinUNETR(1, 2, **SWIN))  # type: ignore[arg-type]
    state = foreign.state_dict()
    if old:  # as MONAI's pre-trainings were saved
        state = {
            f"module.{name.removeprefix('swinViT.')}".replace("mlp.linear", "mlp.fc"): tensor
            for name, tensor in state.items()
            if name.startswith("swinViT.")
        }
    torch.save({"state_dict": state}, tmp_path / "foreign.pt")
    transfer = api.import_weights(
        tmp_path / "foreign.pt", tmp_path / "own", tiny.store, settings={"crop": [48, 32, 32]}
    )
    assert (transfer.share, transfer.fresh, transfer.warnings) == (1.0, {}, [])
    encoder, volume = load_encoder(tmp_path / "own"), torch.randn(1, 1, 32, 32, 32)
    assert_same(encoder(volume), foreign.swinViT(volume, True)[-1])


def pictures() -> dict[str, Tensor]:
    """Weights in the naming of 2D masked autoencoders: patches of 4, six times six of them."""
    torch.manual_seed(0)
    sizes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 128), "pos_embed": (1, 37, 128), "patch_embed.proj.weight": (128, 3, 4, 4),
        "patch_embed.proj.bias": (128,), "norm.weight": (128,), "norm.bias": (128,), "mask_token": (1, 1, 12),
    }  # fmt: skip
    for part, shape in (("norm1", (128,)), ("attn.qkv", (384, 128)), ("attn.proj", (128, 128)), ("norm2", (128,)),
                        ("mlp.fc1", (256, 128)), ("mlp.fc2", (128, 256))):  # fmt: skip
        sizes |= {f"blocks.0.{part}.weight": shape, f"blocks.0.{part}.bias": shape[:1]}
    return {name: torch.randn(size) for name, size in sizes.items()}


def test_weights_of_pictures_are_inflated_to_the_crop(tmp_path: Path, says: Callable[..., str]) -> None:
    torch.save({"model": pictures()}, tmp_path / "pictures.pth")
    scans = ["--spacing", 1, 1, 2, "--intensity", "mr", "--channels", "T1", "T2"]
    told = ["--set", "crop=[16,24,8]", "--set", "vit.patch=[4,4,2]"]
    said = says("import", tmp_path / "pictures.pth", tmp_path / "own", *scans, *told)
    assert "inflated" in said
    assert "The number of heads was supposed to be 2" in said
    encoder = load_encoder(tmp_path / "own")
    assert encoder(torch.randn(1, 2, 16, 24, 8)).shape == (1, 4 * 6 * 4, 128)
    about: dict[str, Any] = encoder.metadata  # type: ignore[assignment]
    prepared = {"spacing": [1, 1, 2], "intensity": "mr", "channels": ["T1", "T2"], "match_channels": False}
    assert about["preparation"] == prepared


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"crop": [16, 16]}, r"--set crop=\[16, 16\]: give three whole numbers"),
        ({"crop": [16, 16, 16.0]}, "give three whole numbers"),
        ({"vit.heads": 5, "crop": [16] * 3}, "a width must be a multiple of its number of heads"),
        ({"vit.headds": 5, "crop": [16] * 3}, "'vit.headds' is not a setting; did you mean 'heads'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, settings: dict[str, Any], told: str) -> None:
    torch.save(pictures(), tmp_path / "pictures.pth")
    with pytest.raises(RecipeError, match=told):
        api.import_weights(tmp_path / "pictures.pth", tmp_path / "own", **LIKE, settings=settings)  # type: ignore[arg-type]
    assert not (tmp_path / "own").exists()


def test_what_is_told_of_the_scans_must_make_sense_and_comes_before_the_store(tiny: Tiny, tmp_path: Path) -> None:
    torch.save(pictures(), tmp_path / "pictures.pth")
    with pytest.raises(StoreError, match="scans of pet at None mm cannot be"):
        api.import_weights(tmp_path / "pictures.pth", tmp_path / "own", tiny.store, intensity="pet")
    settings = {"crop": [16, 16, 16]}
    api.import_weights(tmp_path / "pictures.pth", tmp_path / "own", tiny.store, intensity="mr", settings=settings)
    _, about = read_weights(tmp_path / "own" / "encoder.safetensors")
    assert about["preparation"] == read_weights_preparation(tiny.store) | {"intensity": "mr"}


# Out


def pretrained(tiny: Tiny, folder: Path, **settings: Any) -> Path:
    write_recipe(folder / "recipe.yaml", make_recipe({"precision": "32", "pretrain": TINY_TRAINING, **settings}))
    return api.pretrain(tiny.store, folder / "run", folder / "recipe.yaml", {"pretrain.steps": 1})


def monais_network(printed: str) -> nn.Module:
    """What the printed lines make."""
    lines = printed[printed.index("from monai") :].split("done:")[0]
    names: dict[str, Any] = {"CLASSES": 3}
    exec(lines, names)
    return names["network"].eval()


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_vit_goes_to_monais_unetr(tiny: Tiny, tmp_path: Path, says: Callable[..., str], ending: str) -> None:
    vit = {"patch": [16, 16, 16], "width": 48, "depth": 12, "heads": 4, "mlp_ratio": 1.5}
    mae = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
    run = pretrained(tiny, tmp_path, vit=vit, crop=[32, 16, 32], mae=mae)
    network = monais_network(says("export", run, tmp_path / f"encoder{ending}", "--to", "monai"))
    volume = torch.randn(1, 1, 32, 16, 32)
    assert network(volume).shape == (1, 3, 32, 16, 32)
    assert_same(network.vit(volume)[0], load_encoder(run)(volume))  # type: ignore[operator]


def test_a_swin_goes_to_monais_swin_unetr_with_its_licence(
    tiny: Tiny, tmp_path: Path, says: Callable[..., str]
) -> None:
    swin = {"patch": [2, 2, 2], "width": 12, "depths": [1, 1, 1, 1], "heads": [1, 2, 2, 2], "window": 2,
            "last_merge": True, "mlp_ratio": 2.0}  # fmt: skip
    run = pretrained(tiny, tmp_path, encoder="swin", pretext="simmim", swin=swin, crop=[64, 32, 32])
    out = tmp_path / "encoder.safetensors"
    network = monais_network(says("export", run, out))
    volume = torch.randn(1, 1, 64, 32, 32)
    assert network(volume).shape == (1, 3, 64, 32, 32)
    assert_same(network.swinViT(volume, True)[-1], load_encoder(run)(volume))  # type: ignore[operator]
    with safe_open(str(out), framework="pt") as file:
        about = json.loads(file.metadata()["from_voxmim"])
    assert about["data"] == read_weights(run / "encoder.safetensors")[1]["data"]
    assert api.import_weights(out, tmp_path / "back", tiny.store, settings={"crop": [64, 32, 32]}).share == 1.0
    assert_same(load_encoder(tmp_path / "back")(volume), load_encoder(run)(volume))


def test_what_monai_cannot_hold_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    told = {"encoder": "unet", "unet": {"width": 4, "blocks": [1, 1, 1]}, "crop": [16, 16, 8], "precision": "32"}
    recipe = make_recipe(told | {"pretrain": TINY_TRAINING | {"steps": 1}})
    run = pretrain(Store(tiny.store), tmp_path / "run", recipe).path
    with pytest.raises(WeightsError, match="MONAI has no network that our residual U-Net's weights fit"):
        api.export_weights(run, tmp_path / "encoder.pt")
    assert not (tmp_path / "encoder.pt").exists()
