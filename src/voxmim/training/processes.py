"""Several processes that train together: how they are set up, and how they end together when one of them fails."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import NoReturn, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.fabric.strategies import ModelParallelStrategy, Strategy
from lightning.fabric.utilities.rank_zero import rank_zero_only

from voxmim.errors import TrainingError, VoxmimError
from voxmim.recipe import Recipe
from voxmim.training.sharding import shard

for _name in ("lightning.fabric", "lightning.pytorch"):  # Lightning greets through whichever was imported last
    logging.getLogger(_name).setLevel(logging.WARNING)
PRECISIONS = {"bf16": "bf16-mixed", "16": "16-mixed", "32": "32-true"}
Result = TypeVar("Result")


def make_fabric(recipe: Recipe) -> Fabric:
    """Set up devices, strategy and precision; several processes are started by the caller's `launch`.

    Raises:
        TrainingError: there are not so many devices, or torchrun or SLURM started another number of processes.
    """
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cpu" and recipe.precision == "16":
        raise TrainingError("precision 16 needs a GPU, and none was found; take --precision bf16 or 32.")
    if accelerator == "cuda" and recipe.devices > torch.cuda.device_count():
        raise TrainingError(
            f"devices is {recipe.devices}, but this process sees {torch.cuda.device_count()} GPU(s); take fewer, or let"
            " every process see all GPUs of its node."
        )
    world = recipe.nodes * recipe.devices
    _check_started(world, recipe)
    strategy: str | Strategy = "auto" if world == 1 else "ddp"
    if world > 1 and recipe.strategy == "fsdp":
        strategy = ModelParallelStrategy(shard, data_parallel_size=world, tensor_parallel_size=1)
    return Fabric(
        accelerator=accelerator,
        devices=recipe.devices,
        num_nodes=recipe.nodes,
        strategy=strategy,
        precision=PRECISIONS[recipe.precision],  # type: ignore[arg-type]
    )


def _check_started(world: int, recipe: Recipe) -> None:
    """Whether torchrun or SLURM, where one of them starts the processes, starts as many as the recipe has."""
    if TorchElasticEnvironment.detect():
        if int(os.environ["WORLD_SIZE"]) != world:
            raise TrainingError(
                f"torchrun started {os.environ['WORLD_SIZE']} process(es), but nodes {recipe.nodes} x devices "
                f"{recipe.devices} is {world}; give voxmim the same --nodes and --devices."
            )
    elif SLURMEnvironment.detect():
        per_node = os.environ.get("SLURM_NTASKS_PER_NODE")
        if int(os.environ["SLURM_NTASKS"]) != world or (world > 1 and per_node != str(recipe.devices)):
            raise TrainingError(
                f"SLURM has {os.environ['SLURM_NTASKS']} task(s), {per_node or 'no set number'} a node, but nodes "
                f"{recipe.nodes} x devices {recipe.devices} is {world}; ask for --nodes={recipe.nodes} "
                f"--ntasks-per-node={recipe.devices}, and start voxmim with srun."
            )


def first_process() -> bool:
    """Whether this is the process that writes and speaks, of all that train together."""
    return rank_zero_only.rank == 0  # type: ignore[attr-defined]


@contextmanager
def together(fabric: Fabric) -> Iterator[None]:
    """Where the block fails, the processes that were started from this one end too, instead of waiting for it."""
    try:
        yield
    except BaseException:
        for process in getattr(fabric.strategy.launcher, "procs", []):
            process.kill()
        raise


def shared(fabric: Fabric, work: Callable[[], Result]) -> Result:
    """What `work` gives here, once it is known to have succeeded on every process; all must call this.

    Raises:
        VoxmimError: it failed on some process.
    """
    result, error = None, None
    try:
        result = work()
    except (VoxmimError, OSError) as failed:
        error = failed
    if fabric.world_size > 1:
        failures = fabric.all_reduce(torch.tensor(float(error is not None), device=fabric.device), reduce_op="sum")
        if failures > 0:  # type: ignore[operator]
            stop(fabric, "" if error is None else str(error))
    elif error is not None:
        raise error
    return result  # type: ignore[return-value]


def stop(fabric: Fabric, *said: str, about: str = "") -> NoReturn:
    """End all processes, each of which calls this: the first tells what was found, the others leave silently.

    Args:
        fabric: launched.
        said: what this process has to say, the surest first; the surest that any of them has is told.
        about: what comes before, the same on every process.

    Raises:
        TrainingError: on the first process.
    """
    told = [fabric.broadcast(said, src=rank) for rank in range(fabric.world_size)]
    if fabric.is_global_zero:
        texts = next(filter(any, zip_longest(*told, fillvalue="")), ())
        raise TrainingError(about + " ".join(dict.fromkeys(filter(None, texts))))
    raise SystemExit(0)  # any other status could make a launcher kill the first process before it has spoken
