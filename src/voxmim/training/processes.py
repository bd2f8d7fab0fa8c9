"""The processes of one training: their setup, and ending all of them when one fails."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import torch
from torch import distributed

from voxmim.errors import TrainingError, VoxmimError
from voxmim.recipe import Recipe
from voxmim.text import counted
from voxmim.training.one_process import Fabric, OneProcess

for _name in ("lightning.fabric", "lightning.pytorch"):  # tips are logged by whichever was imported last
    logging.getLogger(_name).setLevel(logging.WARNING)
PRECISIONS = {"bf16": "bf16-mixed", "16": "16-mixed", "32": "32-true"}
Result = TypeVar("Result")


def make_fabric(recipe: Recipe) -> Fabric:
    """Set up devices, strategy and precision; several processes are started by the caller's `launch`.

    Raises:
        TrainingError: there are too few devices, or torchrun or SLURM started another number of processes.
    """
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cpu" and recipe.precision == "16":
        raise TrainingError("precision 16 needs a GPU, and none was found; take --precision bf16 or 32.")
    if accelerator == "cuda" and recipe.devices > torch.cuda.device_count():
        raise TrainingError(
            f"devices is {recipe.devices}, but this process sees {counted(torch.cuda.device_count(), 'GPU')}; take "
            "fewer, or let every process see all GPUs of its node."
        )
    world = recipe.nodes * recipe.devices
    _check_started(world, recipe)
    if world == 1 and recipe.precision != "16":
        dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
        return OneProcess(torch.device(accelerator), dtype)
    from lightning import fabric  # takes seconds to import

    several: Any = fabric.Fabric(
        accelerator=accelerator,
        devices=recipe.devices,
        num_nodes=recipe.nodes,
        strategy="auto" if world == 1 else "ddp",
        precision=PRECISIONS[recipe.precision],  # type: ignore[arg-type]
    )
    return several


def _check_started(world: int, recipe: Recipe) -> None:
    """Check that torchrun or SLURM, if it starts the processes, starts as many as the recipe has."""
    if distributed.is_torchelastic_launched():
        if int(os.environ["WORLD_SIZE"]) != world:
            raise TrainingError(
                f"torchrun's WORLD_SIZE is {os.environ['WORLD_SIZE']}, but nodes {recipe.nodes} x devices "
                f"{recipe.devices} is {world}; give voxmim the same --nodes and --devices."
            )
    elif "SLURM_NTASKS" in os.environ:
        from lightning.fabric.plugins.environments import SLURMEnvironment

        if not SLURMEnvironment.detect():  # an interactive shell, in which SLURM does not start the processes
            return
        per_node = os.environ.get("SLURM_NTASKS_PER_NODE")
        if int(os.environ["SLURM_NTASKS"]) != world or (world > 1 and per_node != str(recipe.devices)):
            raise TrainingError(
                f"SLURM has {counted(int(os.environ['SLURM_NTASKS']), 'task')}, {per_node or 'no set number'} a node, "
                f"but nodes {recipe.nodes} x devices {recipe.devices} is {world}; ask for --nodes={recipe.nodes} "
                f"--ntasks-per-node={recipe.devices}, and start voxmim with srun."
            )


def first_process() -> bool:
    """Whether this is the first process of a training, which writes and prints."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


@contextmanager
def kill_children_on_error(fabric: Fabric) -> Iterator[None]:
    """If the block fails, kill the processes that this one started, which would wait for it."""
    try:
        yield
    except BaseException:
        for process in getattr(fabric.strategy.launcher, "procs", []):
            process.kill()
        raise


def all_ranks(fabric: Fabric, work: Callable[[], Result]) -> Result:
    """Run `work` on every process; all must call this.

    Raises:
        VoxmimError: it failed on at least one process.
    """
    if fabric.world_size == 1:
        return work()
    result, error = None, None
    try:
        result = work()
    except (VoxmimError, OSError) as failed:
        error = failed
    failures = fabric.all_reduce(torch.tensor(float(error is not None), device=fabric.device), reduce_op="sum")
    if failures > 0:
        raise_on_all_ranks(fabric, "" if error is None else str(error), error is not None)
    return result  # type: ignore[return-value]


def raise_on_all_ranks(fabric: Fabric, message: str, certain: bool, prefix: str = "") -> NoReturn:
    """End all processes; each calls this with its own message.

    Messages that are not `certain` to be the cause are shown only if no process has a certain one.

    Raises:
        TrainingError: on the first process, with the messages of all; the others exit silently.
    """
    messages = [fabric.broadcast((certain, message), src=rank) for rank in range(fabric.world_size)]
    if fabric.is_global_zero:
        shown = [text for sure, text in messages if sure] or [text for _, text in messages]
        raise TrainingError(prefix + " ".join(dict.fromkeys(filter(None, shown))))
    raise SystemExit(0)  # any other status could make a launcher kill the first process before it has printed
