"""One trial of a study: a training or an evaluation, whose folder is named after all that its result depends on.

Two trials that would do the same are one trial, which several arms and several studies in one folder use. A trial that
is done is not run again, one that was stopped resumes from its last checkpoint, one that failed is run again.
"""

import hashlib
import json
import shlex
import shutil
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import torch

from voxmim.errors import RunError, VoxmimError
from voxmim.files import write_json
from voxmim.pretext.build import fitting_pretexts
from voxmim.recipe import Recipe, write_recipe
from voxmim.report.machine import machine
from voxmim.report.run_page import init_options
from voxmim.store.format import INDEX, Store
from voxmim.tasks.cases import labelled_train_cases
from voxmim.tasks.segmentation.evaluate import evaluate
from voxmim.training.finetune import finetune
from voxmim.training.pretrain import pretrain
from voxmim.training.run import ABOUT

TRIALS = "trials"  # the folder of all trials, beside those of the studies
SPLIT = "test"
EVALUATION = f"evaluation-{SPLIT}.json"
CODE = (  # of the package, what the result of a trial depends on
    "images", "sources", "store", "networks", "weights", "pretext", "training", "tasks", "recipe.py", "settings.py",
)  # fmt: skip
_ONE_AT_A_TIME = threading.Lock()  # a worker of a cluster may have several threads, but torch has one random state


@lru_cache
def source_hash() -> str:
    """Hash of the package's source, as far as the result of a trial depends on it (`CODE`)."""
    root = Path(__file__).parents[1]
    files = sorted(
        file for part in CODE for file in ([root / part] if part.endswith(".py") else (root / part).rglob("*.py"))
    )
    digest = hashlib.blake2b(digest_size=5)
    for file in files:
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


@dataclass(frozen=True)
class Trial:
    """One training or evaluation, and all that its result depends on."""

    # ``pretrain``, ``finetune``, or ``evaluate``, which scores a fine-tuning on the test cases
    kind: Literal["pretrain", "finetune", "evaluate"]
    store: Path  # of the scans
    recipe: Recipe  # the settings, with a crop and a seed
    labels: str | None = None  # labelled cases to use, as `finetune` takes them
    start: "Trial | None" = None  # the pre-training to start from, or the fine-tuning to evaluate
    source: str = field(default_factory=source_hash)  # of the code that runs it

    @cached_property
    def name(self) -> str:
        """The same for the same work on the same data by the same code."""
        index = self.store / INDEX
        written = index.stat().st_mtime_ns if index.is_file() else 0
        follows_from = {
            "source": self.source,
            "data": _data(self.store, written),
            "recipe": asdict(self.own_recipe),
            "labels": _label_count(self.store, written, self.labels) if self.kind == "finetune" else None,
            "start": None if self.start is None else self.start.name,
        }
        digest = hashlib.blake2b(json.dumps(follows_from, sort_keys=True).encode(), digest_size=5).hexdigest()
        what = {"pretrain": self.recipe.pretext, "finetune": "scratch", "evaluate": SPLIT}[self.kind]
        if self.kind == "finetune" and self.start is not None:
            what = f"from-{self.start.recipe.pretext}"
        return f"{self.kind}-{what}-seed{self.recipe.seed}-{digest}"

    @cached_property
    def own_recipe(self) -> Recipe:
        """The recipe, with all that does not matter to this kind of trial as it is by default."""
        recipe, default = self.recipe, Recipe()
        idle = {"about", "crop_voxels", "scratch_lr", "lrs"}
        if self.kind == "pretrain":
            idle |= {"finetune", "self_training", "unetr", "overlap", "carry_decoder"} | (
                set() if recipe.pretext_class.masked else {"mask"}
            )
        else:
            idle |= {"pretrain", "channels", "mask", "scans"}
            recipe = replace(recipe, pretext=fitting_pretexts(recipe.encoder)[0], pretext_settings=None)
        return replace(recipe, **{name: getattr(default, name) for name in idle})

    def absolute(self) -> "Trial":
        """The same, for a process that may stand in another folder."""
        return replace(self, store=self.store.resolve(), start=self.start and self.start.absolute())

    def path(self, out: Path) -> Path:
        """The run folder; that of an evaluation is the fine-tuning's."""
        own = self.start if self.kind == "evaluate" and self.start is not None else self
        return out / TRIALS / own.name

    def is_done(self, out: Path) -> bool:
        note = note_of(self, out)
        return note is not None and note.state == "done" and self.result(out).is_file()

    def result(self, out: Path) -> Path:
        """The file that a trial which is done has written."""
        name = {"pretrain": "encoder.safetensors", "finetune": "segmentor.safetensors", "evaluate": EVALUATION}
        return self.path(out) / name[self.kind]

    def command(self, out: Path) -> str:
        """The command that does the same, from the recipe that lies beside the trial's folder."""
        run, recipe_file = self.path(out), _beside(self, out, ".yaml")
        if self.kind == "evaluate":
            return shlex.join(["voxmim", "evaluate", str(run), str(self.store), "--split", SPLIT])
        command = ["voxmim", self.kind, str(self.store), str(run), "--recipe", str(recipe_file)]
        if self.labels is not None:
            command += ["--labels", self.labels]
        if Store(self.store).unresolved:
            command.append("--accept-findings")
        if self.start is not None:
            command += init_options(str(self.start.path(out)), self.recipe)
        return shlex.join(command)


@lru_cache
def _data(store: Path, _: int) -> str:
    """What a trial follows from of the store whose index was written at that time."""
    opened = Store(store)
    return json.dumps([opened.digest(), sorted(opened.labels.items()), sorted(opened.regions.items())])


@lru_cache
def _label_count(store: Path, _: int, labels: str | None) -> int:
    """How many labelled cases that is: a tenth and 6 may be the same."""
    return len(labelled_train_cases(Store(store), labels, 0))


@dataclass(frozen=True)
class Note:
    """How a trial ended, kept as ``NAME.json`` beside its folder, where ``NAME.yaml`` is its recipe."""

    trial: str  # its name
    # ``done``, ``failed``, or ``skipped`` since what it starts from is not there
    state: Literal["done", "failed", "skipped"]
    seconds: float = 0.0  # how long it took, in this attempt
    error: str = ""  # why it failed or was skipped
    machine: str = ""  # where it was carried out
    source: str = ""  # of the code that carried it out
    threads: int = 1  # of torch, while it ran


def refuse_other_code(out: Path) -> None:
    """Refuse a folder with trials of another version of the code: results of two programs must not be compared.

    Raises:
        RunError: there are some.
    """
    notes = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((out / TRIALS).glob("*.json"))]
    other = [note for note in notes if note.get("source") != source_hash()]
    if other:
        raise RunError(
            f"{out / TRIALS}: {len(other)} of {len(notes)} trials were run by another version of voxmim's code, and "
            "their results must not be compared with those of this version; name another folder."
        )


def note_of(trial: Trial, out: Path) -> Note | None:
    """How the trial ended, or None where it was never carried out to an end."""
    file = _beside(trial, out, ".json")
    return Note(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def carry_out(trial: Trial, out: Path) -> Note:
    """Do a trial, for which its start must be done, unless it is done itself; what goes wrong becomes its note."""
    known = note_of(trial, out)
    if known is not None and trial.is_done(out):
        return known
    if trial.source != source_hash():
        return Note(trial.name, "failed", error="this worker has another version of voxmim's code", machine=machine())
    before = None if trial.start is None else note_of(trial.start, out)
    if trial.start is not None and (before is None or before.state != "done"):
        return Note(trial.name, "skipped", error=f"{trial.start.name} is not there, from which it starts")
    began, threads = time.monotonic(), torch.get_num_threads()
    with _ONE_AT_A_TIME:
        try:
            error = ""
            _do(trial, out)
        except Exception as failure:  # whatever it is, the other trials shall go on
            text = str(failure) if isinstance(failure, VoxmimError) else f"{type(failure).__name__}: {failure}"
            error = " ".join(text.split())
    seconds = round(time.monotonic() - began, 1)
    note = Note(trial.name, "failed" if error else "done", seconds, error, machine(), trial.source, threads)
    write_json(_beside(trial, out, ".json"), asdict(note))
    return note


def _do(trial: Trial, out: Path) -> None:
    """The work itself; the page of the study takes the place of a report of each run."""
    path = trial.path(out)
    init = None if trial.start is None else trial.start.path(out)
    if trial.kind == "evaluate":
        write_json(trial.result(out), evaluate(path, trial.store, SPLIT))
        return
    write_recipe(_beside(trial, out, ".yaml"), trial.own_recipe)
    resume = (path / ABOUT).is_file()
    if not resume:  # a kill may have left a folder that is no run yet
        shutil.rmtree(path, ignore_errors=True)
    store = Store(trial.store)
    if trial.kind == "pretrain":
        pretrain(store, path, trial.own_recipe, resume, init)
    else:
        finetune(store, path, trial.own_recipe, init, trial.labels, resume)


def _beside(trial: Trial, out: Path, ending: str) -> Path:
    return out / TRIALS / f"{trial.name}{ending}"
