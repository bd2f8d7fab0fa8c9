"""Training in one process gives the same result as Lightning Fabric, without importing it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from conftest import Tiny
from voxmim.training.one_process import OneProcess


def a_step(fabric: Fabric | OneProcess) -> tuple[Tensor, list[Tensor]]:
    """The output of a network, and its weights after a step with gradient clipping."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
    wrapped = fabric.setup_module(network)  # type: ignore[arg-type]
    optimiser = fabric.setup_optimizers(torch.optim.SGD(network.parameters(), lr=0.1))
    output = wrapped(fabric.to_device(torch.randn(5, 8)))
    fabric.backward(output.float().square().sum())
    fabric.clip_gradients(wrapped, optimiser, max_norm=0.1, error_if_nonfinite=False)
    optimiser.step()
    return output.float(), [parameter.detach() for parameter in network.parameters()]


@pytest.mark.parametrize(("name", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_a_step_agrees_with_fabric(name: str, dtype: torch.dtype) -> None:
    theirs = a_step(Fabric(accelerator="cpu", devices=1, precision=name))  # type: ignore[arg-type]
    torch.testing.assert_close(a_step(OneProcess(torch.device("cpu"), dtype)), theirs, rtol=0, atol=0)


def test_a_training_imports_only_packages_that_it_uses(tiny: Tiny, tmp_path: Path) -> None:
    code = (
        "import sys, voxmim\n"
        "for kind, train in (('pretrain', voxmim.pretrain), ('finetune', voxmim.finetune)):\n"
        f"    train({str(tiny.store)!r}, {str(tmp_path)!r} + '/' + kind, recipe={str(tiny.recipe)!r},"
        "          settings={kind + '.steps': 1}, quiet=True)\n"
        "heavy = {'lightning', 'monai', 'torch._dynamo', 'scipy.stats', 'torchmetrics'} & sys.modules.keys()\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
