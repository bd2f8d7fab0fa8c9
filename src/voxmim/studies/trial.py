"""One trial of a study: a training or an evaluation, whose folder is named by a hash of all that determines its result.

So identical trials of several arms, or of several studies in one folder, are run once. A trial that is done is not run
again, one that was stopped resumes from its last checkpoint, and one that failed is run again.
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

from voxmim.errors import RunError, StoppedError, VoxmimError
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
CODE = (  # the parts of the package that determine the result of a trial
    "images", "sources", "store", "networks", "weights", "pretext", "training", "tasks", "recipe.py", "settings.py",
)  # fmt: skip
_ONE_AT_A_TIME = threading.Lock()  # a worker of a cluster may have several threads, but torch has one random state


@lru_cache
def source_hash() -> str:
    """Hash of the parts of the package's source in `CODE`."""
    root = Path(__file__).parents[1]
    digest = hashlib.blake2b(digest_size=5)
    for file in sorted(root.rglob("*.py")):
        if file.relative_to(root).parts[0] not in CODE:
            continue
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


@dataclass(frozen=True)
class Trial:
    """One training or evaluation, with all that determines its result."""

    kind: Literal["pretrain", "finetune", "evaluate"]  # an evaluation scores a fine-tuning on the test cases
    store: Path
    recipe: Recipe  # with a crop and a seed
    labels: str | None = None  # the number of labelled cases, as for `finetune`
    start: "Trial | None" = None  # the pre-training to start from, or the fine-tuning to evaluate
    source: str = field(default_factory=source_hash)  # of the code that runs it

    @cached_property
    def name(self) -> str:
        """The folder's name: kind, start and seed, and a hash of data, settings and code."""
        index = self.store / INDEX
        written = index.stat().st_mtime_ns if index.is_file() else 0
        determined_by = {
            "source": self.source,
            "data": _data(self.store, written),
            "recipe": asdict(self.own_recipe),
            "labels": _label_count(self.store, written, self.labels) if self.kind == "finetune" else None,
            "start": None if self.start is None else self.start.name,
        }
        digest = hashlib.blake2b(json.dumps(determined_by, sort_keys=True).encode(), digest_size=5).hexdigest()
        what = {"pretrain": self.recipe.pretext, "finetune": "scratch", "evaluate": SPLIT}[self.kind]
        if self.kind == "finetune" and self.start is not None:
            what = f"from-{self.start.recipe.pretext}"
        return f"{self.kind}-{what}-seed{self.recipe.seed}-{digest}"

    @cached_property
    def own_recipe(self) -> Recipe:
        """The recipe with a default for each setting that this kind of trial does not use."""
        recipe, default = self.recipe, Recipe()
        unused = {"about", "crop_voxels", "scratch_lr", "lrs"}
        if self.kind == "pretrain":
            unused |= {"finetune", "self_training", "unetr", "overlap", "carry_decoder"}
            unused |= set() if recipe.pretext_class.masked else {"mask"}
        else:
            unused |= {"pretrain", "channels", "mask", "scans"}
            recipe = replace(recipe, pretext=fitting_pretexts(recipe.encoder)[0], pretext_settings=None)
        return replace(recipe, **{name: getattr(default, name) for name in unused})

    def absolute(self) -> "Trial":
        """The same with absolute paths, for a process with another working directory."""
        return replace(self, store=self.store.resolve(), start=self.start and self.start.absolute())

    def path(self, out: Path) -> Path:
        """The run folder; an evaluation uses that of its fine-tuning."""
        trial = self.start if self.kind == "evaluate" and self.start is not None else self
        return out / TRIALS / trial.name

    def is_done(self, out: Path) -> bool:
        note = note_of(self, out)
        return note is not None and note.state == "done" and self.result(out).is_file()

    def result(self, out: Path) -> Path:
        """The file that the trial writes when it is done."""
        name = {"pretrain": "encoder.safetensors", "finetune": "segmentor.safetensors", "evaluate": EVALUATION}
        return self.path(out) / name[self.kind]

    def command(self, out: Path) -> str:
        """The command that repeats the trial, with the recipe beside its folder."""
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
    """The content of a store that determines a result; cached by the time at which its index was written."""
    opened = Store(store)
    return json.dumps([opened.digest(), sorted(opened.labels.items()), sorted(opened.regions.items())])


@lru_cache
def _label_count(store: Path, _: int, labels: str | None) -> int:
    """The number of labelled cases: a fraction of 0.1 may be the same as 6."""
    return len(labelled_train_cases(Store(store), labels, 0))


@dataclass(frozen=True)
class Note:
    """The outcome of a trial, stored as ``NAME.json`` beside its folder; ``NAME.yaml`` is its recipe."""

    trial: str  # its name
    state: Literal["done", "failed", "skipped"]  # skipped: the trial that it starts from is missing
    seconds: float = 0.0  # of the last attempt
    error: str = ""  # why it failed or was skipped
    machine: str = ""
    source: str = ""  # of the code that ran it
    threads: int = 1  # of torch


def refuse_other_code(out: Path) -> None:
    """Check that no trial in a folder was run by another version of the code.

    Raises:
        RunError: there is one, and its results must not be compared with new ones.
    """
    notes = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((out / TRIALS).glob("*.json"))]
    other = [note for note in notes if note.get("source") != source_hash()]
    if other:
        raise RunError(
            f"{out / TRIALS}: {len(other)} of {len(notes)} trials were run by another version of voxmim's code, and "
            "their results must not be compared with those of this version; name another folder."
        )


def note_of(trial: Trial, out: Path) -> Note | None:
    """The outcome of a trial, or None if it has not ended yet."""
    file = _beside(trial, out, ".json")
    return Note(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def run_trial(trial: Trial, out: Path) -> Note:
    """Run a trial unless it is done; errors become its note.

    Raises:
        StoppedError: a signal stopped its training; it has no note, and continues when it is run again.
    """
    note = note_of(trial, out)
    if note is not None and trial.is_done(out):
        return note
    if trial.source != source_hash():
        return Note(trial.name, "failed", error="this worker has another version of voxmim's code", machine=machine())
    if trial.start is not None:
        start = note_of(trial.start, out)
        if start is None or start.state != "done":
            return Note(trial.name, "skipped", error=f"{trial.start.name}, from which it starts, is missing")
    began, threads = time.monotonic(), torch.get_num_threads()
    with _ONE_AT_A_TIME:
        try:
            error = ""
            _run(trial, out)
        except StoppedError:
            raise
        except Exception as failure:  # the other trials must go on
            text = str(failure) if isinstance(failure, VoxmimError) else f"{type(failure).__name__}: {failure}"
            error = " ".join(text.split())
    seconds = round(time.monotonic() - began, 1)
    note = Note(trial.name, "failed" if error else "done", seconds, error, machine(), trial.source, threads)
    write_json(_beside(trial, out, ".json"), asdict(note))
    return note


def _run(trial: Trial, out: Path) -> None:
    """Train or evaluate; the page of the study replaces the reports of its runs."""
    path = trial.path(out)
    init = None if trial.start is None else trial.start.path(out)
    if trial.kind == "evaluate":
        write_json(trial.result(out), evaluate(path, trial.store, SPLIT))
        return
    write_recipe(_beside(trial, out, ".yaml"), trial.own_recipe)
    resume = (path / ABOUT).is_file()
    if not resume:  # a killed process may have left an incomplete folder
        shutil.rmtree(path, ignore_errors=True)
    store = Store(trial.store)
    if trial.kind == "pretrain":
        pretrain(store, path, trial.own_recipe, resume, init)
    else:
        finetune(store, path, trial.own_recipe, init, trial.labels, resume)


def _beside(trial: Trial, out: Path, ending: str) -> Path:
    return out / TRIALS / f"{trial.name}{ending}"
