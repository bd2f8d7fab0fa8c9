"""The estimated cost of a training, measured on a few of its steps."""

import io
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from voxmim.errors import RecipeError, StoppedError
from voxmim.recipe import Recipe
from voxmim.settings import Training
from voxmim.store.format import Store
from voxmim.training.finetune import finetune
from voxmim.training.length import with_steps
from voxmim.training.pretrain import pretrain
from voxmim.training.run import CHECKPOINT
from voxmim.training.speed import WARM_UP
from voxmim.training.validation import NEVER_SKIPPED

STEPS = WARM_UP + 4


@dataclass(frozen=True)
class Plan:
    """The estimated cost of a training; sizes in bytes, times in seconds."""

    kind: str  # pretrain or finetune
    training: Training
    encoder_parameters: int
    parameters: int  # of the whole network
    memory: int  # peak memory of a process
    on_gpu: bool  # whether that is GPU memory
    crops: int  # per step, over all processes
    step_seconds: float  # including the reading of its crops
    validation_seconds: float
    checkpoint_seconds: float
    store_bytes: int  # on disk
    run_bytes: int  # one checkpoint and the weights

    @property
    def steps(self) -> int:
        return self.training.steps

    @property
    def seconds(self) -> float:
        """Of the whole training, with validations and checkpoints."""
        return self.seconds_of(self.training)

    def seconds_of(self, training: Training) -> float:
        """Of another training with the same time per step, validation and checkpoint."""
        validations: float = -(-training.steps // training.validate_every)
        if self.kind == "finetune" and training.validation_fraction < 1 and self.validation_seconds:
            in_time = training.validation_fraction * training.steps * self.step_seconds / self.validation_seconds
            validations = min(validations, max(in_time, NEVER_SKIPPED))
        checkpoints = -(-training.steps // training.checkpoint_every)
        pauses = validations * self.validation_seconds + checkpoints * self.checkpoint_seconds
        return training.steps * self.step_seconds + pauses

    def rows(self) -> list[list[str]]:
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


def plan(store: Store, recipe: Recipe, kind: str = "pretrain", **options: Any) -> Plan:
    """Measure a few steps, a validation and a checkpoint of a training in a temporary folder.

    `kind` is ``pretrain`` or ``finetune``, and `options` are further arguments of these functions, such as `labels`.

    Raises:
        VoxmimError: any error that the training would raise in its first steps, and StoppedError after a signal.
    """
    training: Training = getattr(recipe, kind)
    steps = min(STEPS, training.steps or STEPS)
    changed: Any = {kind: replace(training, steps=steps, validate_every=steps, checkpoint_every=steps)}
    short = replace(recipe, **changed)
    with tempfile.TemporaryDirectory(prefix="voxmim-plan-") as folder:
        out = Path(folder) / "run"
        with redirect_stdout(io.StringIO()):  # no progress bar of six steps
            try:
                if kind == "pretrain":
                    run = pretrain(store, out, short, **options)
                else:
                    run, _ = finetune(store, out, short, **options)
            except StoppedError as stopped:  # its message names the temporary folder
                stopped.args = ("stopped while a few steps were timed; nothing was kept.",)
                raise
        speed = run.about["speed"]
        written = [run.path / CHECKPOINT, *run.path.glob("*.safetensors")]
        run_bytes = sum(file.stat().st_size for file in written)
        if kind == "finetune":  # its steps may follow from its cases
            cases = [store.cases[name] for name in run.about["cases"]]
            training = with_steps(replace(recipe, crop=run.recipe().crop), cases).finetune
    views = recipe.pretext_class.views if kind == "pretrain" else 1
    return Plan(
        **speed,
        kind=kind,
        training=training,
        crops=views * training.batch,
        store_bytes=sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file()),
        run_bytes=run_bytes,
    )


def for_hours(store: Store, recipe: Recipe, hours: float, kind: str = "pretrain", **options: Any) -> Recipe:
    """The recipe with the number of steps that take about this long; see `plan` for the other arguments.

    The numbers of validations and checkpoints do not change.

    Raises:
        VoxmimError: as `plan`, or `hours` is not positive.
    """
    if not hours > 0:
        raise RecipeError(f"--hours {hours:g}: give a time above 0.")
    measured = plan(store, recipe, kind, **options)
    factor = 3600 * hours / measured.seconds
    steps: Any = {
        name: max(1, round(factor * getattr(measured.training, name)))
        for name in ("steps", "validate_every", "checkpoint_every")
    }
    changed: Any = {kind: replace(measured.training, **steps)}
    return replace(recipe, **changed)
