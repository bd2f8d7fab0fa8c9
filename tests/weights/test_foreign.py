"""Importing encoders of other packages: the command, its report, metadata and errors."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import MaskedAutoEncoderViT, SwinUNETR
from monai.networks.nets import ViT as MonaiViT
from safetensors.torch import save_file
from torch import Tensor

from conftest import Tiny, TinyRuns
from voxmim import api
from voxmim.errors import RecipeError, StoreError, WeightsError
from voxmim.store.format import Store
from voxmim.training.run import Run
from voxmim.weights.files import read_weights
from voxmim.weights.foreign import read_foreign
from voxmim.weights.load import load_encoder
from weights_helpers import assert_same, perturbed

VIT = {"hidden_size": 24, "mlp_dim": 36, "num_layers": 2, "num_heads": 3}
SWIN = {"feature_size": 12, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 2, 4), "window_size": 3, "mlp_ratio": 2.0}
LIKE = {"spacing": (1.0, 1.0, 1.0), "intensity": "ct", "channels": ["CT"]}
QUICK = {"finetune.steps": 1, "finetune.batch": 1, "precision": "32", "unetr.feature_size": 4, "overlap": 0.0}


def test_monais_vit_is_imported_and_fine_tuned_with_other_patches(
    tiny: Tiny, tmp_path: Path, run_voxmim: Callable[..., tuple[int, str, str]]
) -> None:
    foreign = perturbed(MonaiViT(1, (16, 16, 16), (8, 8, 8), **VIT))  # type: ignore[arg-type]
    file, out = tmp_path / "foreign.ckpt", tmp_path / "own"
    state = {f"module.{name}": tensor for name, tensor in foreign.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}, file)
    _, output, _ = run_voxmim(
        "import", file, out, "--like", tiny.store, "--licence", "CC BY 4.0", "--set", "vit.heads=3"
    )
    assert re.search(r"renamed +│ \d+ +│ .*module\.", output)
    assert re.search(r"adapted +│ 2 +│ .*qkv\.bias: *zero", output)
    assert re.search(r"fraction of the encoder +│ 100\.0%", output)

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
    foreign = perturbed(MaskedAutoEncoderViT(2, (8, 8, 12), (4, 4, 4), proj_type="conv", **VIT, **decoder))  # type: ignore[arg-type]
    save_file(foreign.state_dict(), tmp_path / "foreign.safetensors")
    two = LIKE | {"channels": ["T1", "T2"]}
    with pytest.raises(WeightsError, match=r"12 positions are not those of a cube; give --set crop"):
        api.import_weights(tmp_path / "foreign.safetensors", tmp_path / "own", **two)  # type: ignore[arg-type]
    settings = {"vit.heads": 3, "crop": [8, 8, 12]}
    with pytest.raises(WeightsError, match="the weights are for 2 channels, not 1"):
        api.import_weights(tmp_path / "foreign.safetensors", tmp_path / "own", **LIKE, settings=settings)  # type: ignore[arg-type]
    report = api.import_weights(tmp_path / "foreign.safetensors", tmp_path / "own", **two, settings=settings)  # type: ignore[arg-type]
    assert report.fraction == 1.0
    assert {name.split(".")[0] for name in report.unused} >= {"decoder_blocks", "mask_tokens"}
    about: dict[str, Any] = load_encoder(tmp_path / "own").metadata  # type: ignore[assignment]
    assert (about["vit"]["registers"], about["vit"]["mlp_ratio"], about["vit"]["depth"]) == (1, 1.5, 2)


@pytest.mark.parametrize("old", [True, False])
def test_monais_swin_is_imported_with_all_its_settings(tiny: Tiny, tmp_path: Path, old: bool) -> None:
    foreign = perturbed(SwinUNETR(1, 2, **SWIN))  # type: ignore[arg-type]
    state = foreign.state_dict()
    if old:  # the names in MONAI's pre-trained weights
        state = {
            f"module.{name.removeprefix('swinViT.')}".replace("mlp.linear", "mlp.fc"): tensor
            for name, tensor in state.items()
            if name.startswith("swinViT.")
        }
    torch.save({"state_dict": state}, tmp_path / "foreign.pt")
    report = api.import_weights(tmp_path / "foreign.pt", tmp_path / "own", tiny.store, settings={"crop": [48, 32, 32]})
    assert (report.fraction, report.missing, report.warnings) == (1.0, {}, [])
    encoder, volume = load_encoder(tmp_path / "own"), torch.randn(1, 1, 32, 32, 32)
    assert_same(encoder(volume), foreign.swinViT(volume, True)[-1])


def weights_of_2d_mae() -> dict[str, Tensor]:
    """Weights with the names of 2D masked autoencoders: 6 x 6 patches of 4 x 4 pixels."""
    torch.manual_seed(0)
    sizes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 128), "pos_embed": (1, 37, 128), "patch_embed.proj.weight": (128, 3, 4, 4),
        "patch_embed.proj.bias": (128,), "norm.weight": (128,), "norm.bias": (128,), "mask_token": (1, 1, 12),
    }  # fmt: skip
    for part, shape in (("norm1", (128,)), ("attn.qkv", (384, 128)), ("attn.proj", (128, 128)), ("norm2", (128,)),
                        ("mlp.fc1", (256, 128)), ("mlp.fc2", (128, 256))):  # fmt: skip
        sizes |= {f"blocks.0.{part}.weight": shape, f"blocks.0.{part}.bias": shape[:1]}
    return {name: torch.randn(size) for name, size in sizes.items()}


def test_weights_of_a_2d_mae_are_inflated_to_3d(
    tmp_path: Path, run_voxmim: Callable[..., tuple[int, str, str]]
) -> None:
    torch.save({"model": weights_of_2d_mae()}, tmp_path / "pictures.pth")
    scans = ["--spacing", 1, 1, 2, "--intensity", "mr", "--channels", "T1", "T2"]
    options = ["--set", "crop=[16,24,8]", "--set", "vit.patch=[4,4,2]"]
    _, output, _ = run_voxmim("import", tmp_path / "pictures.pth", tmp_path / "own", *scans, *options)
    assert "inflated" in output
    assert "The number of heads is taken as 2" in output
    encoder = load_encoder(tmp_path / "own")
    assert encoder(torch.randn(1, 2, 16, 24, 8)).shape == (1, 4 * 6 * 4, 128)
    about: dict[str, Any] = encoder.metadata  # type: ignore[assignment]
    prepared = {"spacing": [1, 1, 2], "intensity": "mr", "channels": ["T1", "T2"]}
    assert about["preparation"].items() >= prepared.items()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": [16, 16]}, r"--set crop=\[16, 16\]: give three whole numbers"),
        ({"crop": [16, 16, 16.0]}, "give three whole numbers"),
        ({"vit.heads": 5, "crop": [16] * 3}, "vit.width 128 must be a multiple of its number of heads, 5"),
        ({"vit.headds": 5, "crop": [16] * 3}, "'vit.headds' is not a setting; did you mean 'vit.heads'"),
    ],
)
def test_invalid_settings_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    torch.save(weights_of_2d_mae(), tmp_path / "pictures.pth")
    with pytest.raises(RecipeError, match=message):
        api.import_weights(tmp_path / "pictures.pth", tmp_path / "own", **LIKE, settings=settings)  # type: ignore[arg-type]
    assert not (tmp_path / "own").exists()


def test_options_for_scans_are_checked_and_override_the_store(tiny: Tiny, tmp_path: Path) -> None:
    torch.save(weights_of_2d_mae(), tmp_path / "pictures.pth")
    with pytest.raises(StoreError, match=r"scans of pet at \(.*\) mm cannot be"):
        api.import_weights(tmp_path / "pictures.pth", tmp_path / "own", tiny.store, intensity="pet")
    settings = {"crop": [16, 16, 16]}
    api.import_weights(tmp_path / "pictures.pth", tmp_path / "own", tiny.store, intensity="mr", settings=settings)
    _, about = read_weights(tmp_path / "own" / "encoder.safetensors")
    assert about["preparation"] == read_weights_preparation(tiny.store) | {"intensity": "mr"}


# Foreign checkpoints


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"net": {"some.weight": torch.zeros(2)}}, "it holds some.weight and so on; the known layouts are monai_mae,"),
        ({"epoch": 3}, "it holds no named tensors; the known layouts are"),
        ({"net": {"stages.0.0.convs.0.conv.weight": torch.zeros(4, 1, 3, 3, 3)}}, "put nnU-Net's plans.json beside it"),
        (None, "this is not a complete checkpoint that torch can read"),
    ],
)
def test_a_file_that_cannot_be_imported_gives_one_sentence(
    tmp_path: Path, run_voxmim: Callable[..., tuple[int, str, str]], content: object, message: str
) -> None:
    torch.save(content or {"net": {"a": torch.zeros(99)}}, tmp_path / "model.pt")
    if content is None:  # truncated
        (tmp_path / "model.pt").write_bytes((tmp_path / "model.pt").read_bytes()[:700])
    status, _, error = run_voxmim("import", tmp_path / "model.pt", tmp_path / "own")
    assert status == 2
    assert error.startswith(f"error: {tmp_path / 'model.pt'}: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "own").exists()


class RunsCode:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("trapped",))


def test_a_pickle_that_could_run_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "trap.pt"
    torch.save({"state_dict": {"weight": torch.zeros(2)}, "more": RunsCode()}, file)
    with pytest.raises(WeightsError, match=r"trap\.pt: .* run foreign code, .* save the state_dict alone") as exc_info:
        read_foreign(file)
    assert "mkdir" in str(exc_info.value)
    assert "\n" not in str(exc_info.value)
    assert not (tmp_path / "trapped").exists()


def test_tensors_are_found_at_any_depth(tmp_path: Path) -> None:
    one, two = torch.ones(1), torch.ones(2)
    content = {"epoch": 3, "net": {"a": one, "step": 7}, "more": {"deep": {"b": two}}, "list": [two]}
    torch.save(content, tmp_path / "nested.ckpt")
    save_file({"a": one}, tmp_path / "flat.safetensors")
    nested, flat = (read_foreign(tmp_path / name) for name in ("nested.ckpt", "flat.safetensors"))
    torch.testing.assert_close([dict(group.tensors) for group in nested], [{"a": one}, {"b": two}])
    torch.testing.assert_close([dict(group.tensors) for group in flat], [{"a": one}])
    assert nested[0].config["epoch"] == 3


def test_a_file_that_is_not_a_checkpoint_is_refused(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_bytes(b"hello world, these are no weights" * 9)
    (tmp_path / "empty.pt").touch()
    torch.save({"a": torch.zeros(99)}, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:700])
    for name in ("text.pt", "empty.pt", "cut.pt"):
        with pytest.raises(WeightsError, match=rf"{name}: .*(not a complete checkpoint|it is refused)"):
            read_foreign(tmp_path / name)
    with pytest.raises(WeightsError, match=r"gone\.pt: there is no such file"):
        read_foreign(tmp_path / "gone.pt")
    own = tiny_runs.pretrain / "encoder.safetensors"
    with pytest.raises(WeightsError, match="start from them with --init"):
        read_foreign(own)
