"""Several processes give the same result as one, and end together."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from conftest import TINY_RECIPE, Tiny
from processes import CONTEXT, in_two_processes, rows_reach
from voxmim import api
from voxmim.errors import StoreError, TrainingError
from voxmim.recipe import make_recipe
from voxmim.store.crops import Crops
from voxmim.training.processes import make_fabric
from voxmim.training.run import Run
from voxmim.weights.files import read_weights
from voxmim.weights.load import load_encoder

SETTINGS: dict[str, Any] = {"pretrain.batch": 4, "pretrain.augmentation.flip": 0.5, "pretrain.ema": 0.5}
TWO: dict[str, Any] = {**SETTINGS, "devices": 2}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread, since sums in another order differ in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trace(path: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv without the time."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in Run.open(path).metrics()]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_weights(path / "pretext.safetensors")[0]


def assert_close(one: Path, other: Path) -> None:
    """Check that metrics are equal up to rounding; those of validation depend on the weights."""
    assert len(trace(one)) == 6
    for row, expected in zip(trace(one), trace(other), strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
    assert weights(one).keys() == weights(other).keys()


def pretrain(*arguments: Any) -> None:
    api.pretrain(*arguments)


@pytest.mark.parametrize(
    "chosen",
    [
        {"mask.kind": "body", "pretrain.accumulate": 2},
        {"pretext": "simclr", "simclr.projection_width": 8},
    ],
)
def test_two_processes_agree_with_one_for_the_same_total_batch(
    tiny: Tiny, tmp_path: Path, chosen: dict[str, Any]
) -> None:
    """`batch` is the total over all processes: each of the two has half of it."""
    alone = {key: value for key, value in chosen.items() if key != "pretrain.accumulate"}
    one = api.pretrain(tiny.store, tmp_path / "one", tiny.recipe, SETTINGS | alone)
    two = tmp_path / "two"
    assert in_two_processes(pretrain, tiny.store, two, tiny.recipe, TWO | chosen) == [0, 0]
    assert_close(one, two)
    assert "2 on each of 1 node" in (two / "report.html").read_text()
    load_encoder(two)  # the names and shapes of a plain network


def test_two_killed_processes_resume_exactly(tiny: Tiny, tmp_path: Path) -> None:
    settings = TWO | {"pretrain.steps": 16, "pretrain.checkpoint_every": 3}
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    assert in_two_processes(pretrain, tiny.store, uninterrupted, tiny.recipe, settings) == [0, 0]
    rows = random.Random("kill").randint(2, 10)
    arguments = (tiny.store, killed, tiny.recipe, settings)
    assert in_two_processes(pretrain, *arguments, kill=rows_reach(killed, rows)) == [-9, -9]
    assert rows <= len(trace(killed)) < 16
    assert in_two_processes(pretrain, tiny.store, killed, None, None, True) == [0, 0]
    assert trace(killed) == trace(uninterrupted)
    torch.testing.assert_close(weights(killed), weights(uninterrupted), rtol=0, atol=0)


# Errors


def fail_to_read(*arguments: Any) -> None:
    """Make the second process fail to read a crop of the third step."""
    read = Crops._row

    def fail(self: Crops, number: int, out: torch.Tensor) -> Any:
        if number == 11:
            raise StoreError("case_x: this scan is damaged.")
        return read(self, number, out)

    Crops._row = fail  # type: ignore[method-assign]
    stopped(*arguments)


def read_nan(*arguments: Any) -> None:
    """Give the second process a crop with NaN in the second step."""
    read = Crops._row

    def add_nan(self: Crops, number: int, out: torch.Tensor) -> Any:
        image, *rest = read(self, number, out)
        if number == 15:
            image[0, 5, 5, 5] = np.nan
        return image, *rest

    Crops._row = add_nan  # type: ignore[method-assign]
    stopped(*arguments)


def stopped(out: Path, *arguments: Any) -> None:
    """Train; on an error, write its text to a file and exit with status 3."""
    try:
        api.pretrain(arguments[0], out, *arguments[1:])
    except TrainingError as error:
        (out.parent / f"error{os.environ['LOCAL_RANK']}").write_text(str(error))
        sys.exit(3)


def test_a_read_error_in_one_process_stops_both(tiny: Tiny, tmp_path: Path) -> None:
    arguments = (tmp_path / "run", tiny.store, tiny.recipe, TWO)
    assert in_two_processes(fail_to_read, *arguments) == [3, 0]  # the first reports it, the second exits silently
    assert (tmp_path / "error0").read_text() == "case_x: this scan is damaged."
    assert len(trace(tmp_path / "run")) == 2


def test_a_non_finite_loss_in_one_process_stops_both(tiny: Tiny, tmp_path: Path) -> None:
    arguments = (tmp_path / "run", tiny.store, tiny.recipe, TWO | {"pretext": "simclr"})
    assert in_two_processes(read_nan, *arguments) == [3, 0]
    error = (tmp_path / "error0").read_text()
    assert re.fullmatch(
        r".*run: the loss is nan at step 2: these scans hold values that are not finite: \S+\.nii\.gz; "
        r"check and prepare them again\.",
        error,
    )


# Launching


@pytest.fixture(scope="module")
def alone(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    return api.pretrain(tiny.store, tmp_path_factory.mktemp("alone") / "run", tiny.recipe, SETTINGS)


def test_the_command_launches_its_processes_and_only_the_first_prints_and_logs(
    tiny: Tiny, alone: Path, tmp_path: Path
) -> None:
    options = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    options += ["--devices", "2", "--log", "tensorboard"]
    command = [sys.executable, "-m", "voxmim", "pretrain", tiny.store, tmp_path / "two", "--recipe", tiny.recipe]
    process = subprocess.run(
        [*map(str, command), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("done:") == 1
    assert process.stdout.count("step 1/6") == 1
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1
    assert_close(alone, tmp_path / "two")


def torchrun(*arguments: Any) -> None:
    """Do what torchrun does with two processes."""
    config = LaunchConfig(
        1, 1, 2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0, start_method="fork"
    )
    elastic_launch(config, pretrain)(*arguments)


def test_torchrun_launches_processes(tiny: Tiny, alone: Path, tmp_path: Path) -> None:
    process = CONTEXT.Process(target=torchrun, args=(tiny.store, tmp_path / "two", tiny.recipe, TWO))
    process.start()
    process.join(timeout=200)
    assert process.exitcode == 0
    assert_close(alone, tmp_path / "two")


def test_a_number_of_devices_that_differs_from_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match=r"torchrun's WORLD_SIZE is 2, but nodes 1 x devices 1 is 1; give"):
        make_fabric(make_recipe(TINY_RECIPE))


SLURM = {
    "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "123", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NNODES": "2", "SLURM_NODELIST": "node[3-4]", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
}  # fmt: skip
FOUR: dict[str, Any] = {"nodes": 2, "pretrain": {"batch": 4}, "finetune": {"batch": 4}}


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment of a task started by srun, the last of two on each of two nodes."""
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "")  # so that variables set during the test are removed
    monkeypatch.delenv("MASTER_ADDR")
    monkeypatch.setattr(rank_zero_only, "rank", 0)


@pytest.mark.usefixtures("slurm")
def test_a_process_takes_its_rank_from_slurm() -> None:
    fabric = make_fabric(make_recipe({**TINY_RECIPE, **FOUR, "devices": 2}))
    environment = fabric.strategy.cluster_environment
    assert isinstance(environment, SLURMEnvironment)
    assert environment.main_address == "node3"
    assert (fabric.world_size, fabric.global_rank, fabric.local_rank, fabric.node_rank) == (4, 3, 1, 1)
    assert not fabric.is_global_zero


@pytest.mark.usefixtures("slurm")
def test_a_number_of_devices_that_differs_from_slurm_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"SLURM has 4 tasks, 2 a node, but nodes 2 x devices 1 is 2; ask for"):
        make_fabric(make_recipe({**TINY_RECIPE, **FOUR}))


def test_more_gpus_than_available_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(TrainingError, match=r"devices is 2, but this process sees 1 GPU;"):
        make_fabric(make_recipe({**TINY_RECIPE, "devices": 2}))
