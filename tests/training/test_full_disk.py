"""A full disk ends a training with one sentence; the run folder stays valid and can be resumed."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conftest import Tiny
from voxmim.errors import RunError
from voxmim.recipe import load_recipe
from voxmim.store.format import Store
from voxmim.training.pretrain import pretrain
from voxmim.training.run import CHECKPOINT, Run


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit files of this process to `size` bytes, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_cannot_be_written_gives_one_sentence_and_the_run_resumes(tiny: Tiny, tmp_path: Path) -> None:
    store, recipe = Store(tiny.store), load_recipe(tiny.recipe)
    uninterrupted = pretrain(store, tmp_path / "uninterrupted", recipe)
    size = (uninterrupted.path / CHECKPOINT).stat().st_size
    with largest_file(size // 2), pytest.raises(RunError) as ended:
        pretrain(store, tmp_path / "run", recipe)
    assert str(ended.value).startswith(f"{tmp_path / 'run'}: writing after step 2 failed (")
    assert str(ended.value).endswith("; free some space and continue with --resume.")
    assert [file.name for file in (tmp_path / "run").iterdir() if file.name.startswith(".")] == []
    resumed = pretrain(store, tmp_path / "run", recipe, resume=True)
    assert [row["loss"] for row in resumed.metrics()] == [row["loss"] for row in uninterrupted.metrics()]


def test_an_earlier_checkpoint_stays_intact(tiny: Tiny, tmp_path: Path) -> None:
    run = pretrain(Store(tiny.store), tmp_path / "run", load_recipe(tiny.recipe))
    state = run.load_checkpoint()
    assert state is not None
    with largest_file(1000), pytest.raises((OSError, RuntimeError)):
        run.save_checkpoint(state)
    again = Run.open(run.path).load_checkpoint()
    assert again is not None
    assert again["step"] == 6
