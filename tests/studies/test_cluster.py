"""A study on a Dask cluster gives the same result as in this process."""

from __future__ import annotations

from pathlib import Path

import distributed

from conftest import TINY_RECIPE, TINY_TRAINING, Tiny
from voxmim.recipe import make_recipe, write_recipe
from voxmim.studies.arm import Comparison
from voxmim.studies.request import Request, ready
from voxmim.training.run import Run


def test_workers_run_each_trial_after_the_one_that_it_starts_from(tiny: Tiny, tmp_path: Path) -> None:
    short = {**TINY_TRAINING, "steps": 2, "validate_every": 1}
    settings = {**TINY_RECIPE, "pretrain": short, "finetune": short, "lrs": [1e-3]}
    write_recipe(tmp_path / "recipe.yaml", make_recipe(settings))
    request = Request((tiny.store,), tmp_path, tmp_path / "recipe.yaml", {}, ("2",))
    arms = ready([request.scratch(), request.pretrained("mae")], [0])
    local = Comparison(arms, [0], tmp_path / "here")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None, host="127.0.0.1", protocol="tcp://"
    ) as cluster:
        on_cluster = Comparison(arms, [0], tmp_path / "there", cluster.scheduler_address)
        for comparison in (on_cluster, local):
            comparison.train()
            comparison.test(arms)
    assert {note.state for note in on_cluster.notes.values()} == {"done"}
    assert set(on_cluster.notes) == set(local.notes)
    for arm in arms:
        runs = [comparison.run(arm, 0) for comparison in (local, on_cluster)]
        traces = [[row["loss"] for row in run.metrics()] for run in runs if isinstance(run, Run)]
        assert traces[0] == traces[1]
        assert on_cluster.results(arm)[0]["mean"] == local.results(arm)[0]["mean"]
