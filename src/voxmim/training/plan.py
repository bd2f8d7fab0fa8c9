"""What a training would take, measured on a few of its steps."""

from __future__ import annotations

import io
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

from voxmim.errors import RecipeError
from voxmim.recipe import Recipe
from voxmim.store.format import Store
from voxmim.training.finetune import finetune
from voxmim.training.pretrain import pretrain
from voxmim.training.run import CHECKPOINT
from voxmim.training.speed import WARM_UP

STEPS = WARM_UP + 4


@dataclass(frozen=True)
class Plan:
    """What a training would take; sizes in bytes, times in seconds.

    Attributes:
        encoder_parameters: of the encoder.
        parameters: of all that is trained.
        memory: peak memory of a process: of the GPU where there is one.
        on_gpu: whether that is the GPU's.
        crops: of a step, over all processes.
        steps: of the training.
        step_seconds: one step, reading of its crops included.
        validation_seconds: one validation.
        checkpoint_seconds: one checkpoint.
        seconds: the training with its validations and checkpoints.
        store_bytes: the store on disk.
        run_bytes: one checkpoint and the weights beside it.
    """

    encoder_parameters: int
    parameters: int
    memory: int
    on_gpu: bool
    crops: int
    steps: int
    step_seconds: float
    validation_seconds: float
    checkpoint_seconds: float
    seconds: float
    store_bytes: int
    run_bytes: int

    def rows(self) -> list[list[str]]:
        """The rows of a table."""
        memory = "GPU memory" if self.on_gpu else "memory"
        return [
            ["parameters", f"{self.parameters:,}, of which the encoder has {self.encoder_parameters:,}"],
            [f"{memory} of a process", f"{self.memory / 1e9:.2f} GB"],
            ["speed", f"{1 / self.step_seconds:.3g} steps/s, {self.crops / self.step_seconds:.3g} crops/s"],
            ["a validation", f"{self.validation_seconds:.2f} s"],
            ["a checkpoint", f"{self.checkpoint_seconds:.2f} s, {self.run_bytes / 1e6:.1f} MB with the weights"],
            ["hours to the end", f"{self.seconds / 3600:.2f}"],
            ["the store on disk", f"{self.store_bytes / 1e9:.3f} GB"],
        ]


def plan(store: Store, recipe: Recipe, kind: str = "pretrain", labels: str | None = None) -> Plan:
    """Train for a few steps, with one validation and one checkpoint, in a folder that is deleted afterwards.

    Args:
        store: of the scans.
        recipe: the settings.
        kind: ``pretrain``, or ``finetune`` from scratch.
        labels: of a fine-tuning, labelled cases to use.

    Raises:
        VoxmimError: whatever the training itself would raise in its first steps.
    """
    training = recipe.pretrain if kind == "pretrain" else recipe.finetune
    steps = min(STEPS, training.steps)
    trial = replace(training, steps=steps, validate_every=steps, checkpoint_every=steps)
    short = replace(recipe, pretrain=trial) if kind == "pretrain" else replace(recipe, finetune=trial)
    with tempfile.TemporaryDirectory(prefix="voxmim-plan-") as folder:
        out = Path(folder) / "run"
        with redirect_stdout(io.StringIO()):  # no progress bar of six steps
            run = pretrain(store, out, short) if kind == "pretrain" else finetune(store, out, short, labels=labels)[0]
        speed = run.about["speed"]
        written = [run.path / CHECKPOINT, *run.path.glob("*.safetensors")]
        run_bytes = sum(file.stat().st_size for file in written)
    views = recipe.pretext_class.views if kind == "pretrain" else 1
    validations = -(-training.steps // training.validate_every)
    checkpoints = -(-training.steps // training.checkpoint_every)
    return Plan(
        **speed,
        crops=views * training.batch,
        steps=training.steps,
        seconds=training.steps * speed["step_seconds"]
        + validations * speed["validation_seconds"]
        + checkpoints * speed["checkpoint_seconds"],
        store_bytes=sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file()),
        run_bytes=run_bytes,
    )


def for_hours(store: Store, recipe: Recipe, hours: float, kind: str = "pretrain", labels: str | None = None) -> Recipe:
    """The recipe with as many steps as fit into this time, by the speed of a few of them; arguments as of `plan`.

    Validations and checkpoints stay as many.

    Raises:
        VoxmimError: as `plan`, or `hours` is not positive.
    """
    if not hours > 0:
        raise RecipeError(f"--hours {hours:g}: give a time above 0.")
    found = plan(store, recipe, kind, labels)
    training = recipe.pretrain if kind == "pretrain" else recipe.finetune
    factor = 3600 * hours / found.seconds
    numbers = {
        name: max(1, round(factor * getattr(training, name)))
        for name in ("steps", "validate_every", "checkpoint_every")
    }
    changed = replace(training, **numbers)
    return replace(recipe, pretrain=changed) if kind == "pretrain" else replace(recipe, finetune=changed)
