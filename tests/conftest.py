"""Tiny synthetic scans on disk, for every test that needs some."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from processes import CONTEXT, rows_reach
from voxmim.cli import main
from voxmim.images.volume import Volume, write_volume
from voxmim.recipe import make_recipe, write_recipe
from voxmim.store.prepare import prepare

# Tests run in parallel, and tiny networks are no faster with more threads. Must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run, so that the result depends on the code alone. To look for new ones:
# pytest --hypothesis-profile=search
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.register_profile("search", max_examples=500, deadline=None)
hypothesis.settings.load_profile("fixed")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The number of test processes: one per core, at most four, and none if only files are named."""
    named = [Path(argument.partition("::")[0]) for argument in config.option.file_or_dir]
    if named and all(path.is_file() for path in named):  # a few files finish before two processes have started
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 4) if cores > 1 else 0


def _write_scan(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    voxels = array[None] if array.ndim == 3 else array
    write_volume(path, Volume(voxels, np.eye(4) if affine is None else affine))
    return path


@pytest.fixture(autouse=True)
def pages_without_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip pictures, which take longer than a tiny training, in tests that are not about them."""
    folders = {"training", "weights", "tasks", "export"} & set(request.path.parts)
    if folders and not getattr(request.module, "PICTURES", False):
        for name in ("reconstruction_pictures", "segmentation_pictures"):
            monkeypatch.setattr(f"voxmim.report.run_page.{name}", lambda *_: [])


@pytest.fixture
def write_scan() -> Callable[..., Path]:
    """Return write_scan(path, array, affine), which writes (X, Y, Z) or (C, X, Y, Z) voxels."""
    return _write_scan


def tiny_case(seed: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A CT of a body (40 HU) in air with two organs (200 and -150 HU, labels 1 and 2), moved a little by the seed."""
    rng = np.random.default_rng(seed)
    where = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))

    def ball(centre: tuple[float, float, float], radius: float) -> np.ndarray:
        moved = np.asarray(centre) + rng.normal(0, 0.03, 3)
        return np.sum((where - moved[:, None, None, None]) ** 2, axis=0) < radius**2

    scan, label = np.full(shape, -1000.0), np.zeros(shape, dtype=np.uint8)
    scan[ball((0, 0, 0), 0.7)] = 40
    for value, hu, centre in ((1, 200, (0.3, 0, 0.1)), (2, -150, (-0.3, 0.1, 0))):
        organ = ball(centre, 0.28)
        scan[organ], label[organ] = hu, value
    return np.rint(scan + rng.normal(0, 10, shape)).astype(np.int16), label


def _write_source(
    path: Path,
    cases: int = 4,
    unlabelled: int = 0,
    shape: tuple[int, int, int] = (20, 18, 16),
    affine: np.ndarray | None = None,
    splits: dict[str, list[str]] | None = None,
) -> Path:
    for seed in range(cases + unlabelled):
        scan, label = tiny_case(seed, shape)
        images = "imagesTr" if seed < cases else "extra_unlabelled"
        _write_scan(path / images / f"case_{seed}.nii.gz", scan, affine)
        if seed < cases:
            _write_scan(path / "labelsTr" / f"case_{seed}.nii.gz", label, affine)
    dataset = {"name": "tiny", "channel_names": {"0": "CT"}, "labels": {"background": 0, "bone": 1, "fat": 2}}
    (path / "dataset.json").write_text(json.dumps(dataset))
    if splits is not None:
        (path / "splits.json").write_text(json.dumps(splits))
    return path


@pytest.fixture
def tiny_source(tmp_path: Path) -> Callable[..., Path]:
    """Return tiny_source(cases, ...), which writes a CT cohort in the Decathlon's layout and returns its folder."""

    def make(folder: str = "source", **options: Any) -> Path:
        return _write_source(tmp_path / folder, **options)

    return make


@dataclass(frozen=True)
class Tiny:
    """A source, its store, and a recipe that trains in a second. Shared between tests: copy before you change it."""

    source: Path
    store: Path
    recipe: Path


@dataclass(frozen=True)
class TinyRuns(Tiny):
    """The same with the runs of a pre-training and of a fine-tuning from its encoder."""

    pretrain: Path
    finetune: Path


TINY_SPLITS = {
    "train": [f"case_{i}" for i in range(4)],
    "val": ["case_4", "case_5"],
    "test": ["case_6", "case_7"],
    "unlabelled": ["case_8", "case_9"],
}
TINY_TRAINING = {
    "steps": 6, "batch": 2, "crops_per_scan": 1, "lr": 1e-3, "validate_every": 3, "checkpoint_every": 2,
    "validation_fraction": 1.0,
}  # fmt: skip
TINY_RECIPE: dict[str, Any] = {
    "about": "for tests",
    "crop": [12, 12, 12],
    "precision": "32",
    "overlap": 0.25,
    "vit": {"patch": [4, 4, 4], "width": 24, "depth": 2, "heads": 2},
    "mae": {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
    "unetr": {"feature_size": 4},
    "pretrain": TINY_TRAINING,
    "finetune": TINY_TRAINING,
    "lrs": [1e-3, 3e-4],
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Eight labelled cases (train 0-3, val 4-5, test 6-7) and two unlabelled, prepared; and a tiny recipe."""
    folder = tmp_path_factory.mktemp("tiny")
    source = _write_source(folder / "source", 8, 2, splits=TINY_SPLITS)
    store = prepare(source, folder / "store", workers=1, quiet=True).store
    write_recipe(folder / "recipe.yaml", make_recipe(TINY_RECIPE))
    return Tiny(source, store, folder / "recipe.yaml")


@pytest.fixture(scope="session")
def tiny_runs(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """Train once for all tests that only read runs."""
    from voxmim import api

    folder = tmp_path_factory.mktemp("runs")
    pretrain = api.pretrain(tiny.store, folder / "pretrain", tiny.recipe)
    finetune = api.finetune(tiny.store, folder / "finetune", init=pretrain)
    return TinyRuns(tiny.source, tiny.store, tiny.recipe, pretrain, finetune)


@dataclass(frozen=True)
class Sorted(Tiny):
    """Scans without label maps, a class for each, and the run of a classifier of them. Shared, as `Tiny`."""

    classes: Path
    run: Path


@pytest.fixture(scope="session")
def tiny_sorted(tmp_path_factory: pytest.TempPathFactory) -> Sorted:
    """Thirty CTs (train 0-17, val 18-23, test 24-29) with a dense or light organ at a random place; and a run."""
    from voxmim import api

    folder = tmp_path_factory.mktemp("sorted")
    rows = ["case,class"]
    for number in range(30):
        rng = np.random.default_rng(number)
        where = np.stack(np.meshgrid(*(np.arange(n) for n in (15, 13, 12)), indexing="ij"))
        centre = rng.uniform(4, 8, 3)[:, None, None, None]
        dense = number % 2 == 1
        scan = rng.normal(0, 20, (15, 13, 12)) - 20
        scan[np.sum((where - centre) ** 2, axis=0) < 3.5**2] += 140 if dense else -90
        _write_scan(folder / "source" / "imagesTr" / f"scan_{number}.nii.gz", np.rint(scan).astype(np.int16))
        rows.append(f"scan_{number},{'dense' if dense else 'light'}")
    parts = {"train": range(18), "val": range(18, 24), "test": range(24, 30)}
    splits = {split: [f"scan_{number}" for number in numbers] for split, numbers in parts.items()}
    (folder / "source" / "splits.json").write_text(json.dumps(splits))
    dataset = {"name": "sorted", "channel_names": {"0": "CT"}, "labels": {"background": 0}}
    (folder / "source" / "dataset.json").write_text(json.dumps(dataset))
    (folder / "classes.csv").write_text("\n".join(rows))
    store = prepare(folder / "source", folder / "store", (1.0, 1.0, 1.0), intensity="ct", workers=1, quiet=True).store
    own = {"steps": 80, "batch": 4, "lr": 1e-3, "validate_every": 20, "checkpoint_every": 40}
    recipe = make_recipe({**TINY_RECIPE, "finetune": {**TINY_TRAINING, **own}})
    write_recipe(folder / "recipe.yaml", recipe)
    run = api.finetune(
        store, folder / "run", recipe=folder / "recipe.yaml", task="classification", classes=folder / "classes.csv"
    )
    return Sorted(folder / "source", store, folder / "recipe.yaml", folder / "classes.csv", run)


@pytest.fixture
def start_and_kill() -> Callable[..., None]:
    """Return start_and_kill(arguments, run, rows): start `voxmim` and kill it once metrics.csv has that many rows."""

    def act(arguments: list[str | Path], run: Path, rows: int) -> None:
        process = CONTEXT.Process(target=main, args=([str(argument) for argument in arguments],))
        process.start()
        enough = rows_reach(run, rows)
        while process.is_alive() and not enough():
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it ended before it was killed"

    return act


@pytest.fixture
def stop_before_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """Return stop_before_step(n): within the block, trainings end with KeyboardInterrupt before step n (from 0)."""
    from voxmim.training import loop

    take_step = loop._step

    @contextmanager
    def block(number: int) -> Iterator[None]:
        def step(*given: Any) -> None:
            if given[5] == number:
                raise KeyboardInterrupt
            take_step(*given)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "_step", step)
            with pytest.raises(KeyboardInterrupt):
                yield

    return block


@pytest.fixture
def fake_segmentor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return fake_segmentor(spacing, bands): the next segmentor that is loaded labels by intensity, without errors."""
    from stand_ins import TINY_BANDS, ByIntensity

    def make(
        spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
        bands: Mapping[int, tuple[float, float]] | None = None,
        crop: tuple[int, int, int] = (16, 16, 16),
        seed: int = 0,
        channels: Sequence[str] = ("CT",),
        cleaned: Sequence[str] = (),
    ) -> None:
        metadata = {
            "preparation": {"spacing": spacing, "intensity": "ct", "channels": list(channels)},
            "window": [-400, 400],
            "crop": list(crop),
            "overlap": 0.25,
            "precision": "32",
            "labels": {str(value): {1: "bone", 2: "fat"}[value] for value in bands or TINY_BANDS},
            "remove_small_components": list(cleaned),
            "data": {"seed": seed},
        }
        network = ByIntensity(bands or TINY_BANDS).eval()
        monkeypatch.setattr("voxmim.tasks.segmentation.predict.load_segmentor", lambda run: (network, metadata))

    return make


@pytest.fixture
def run_voxmim(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return run_voxmim(argument, ...), which runs a command and returns its exit status, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(exit_info.value.code or 0), printed.out, printed.err

    return run
