"""Every study once, on phantoms: its trials, which of them are shared between studies, and its tables.

One trial of each kind is run; the others get a copy of its files.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import TINY_RECIPE
from voxmim import api
from voxmim.errors import StoreError
from voxmim.phantoms.cohort import write_cohort
from voxmim.recipe import make_recipe, write_recipe
from voxmim.store.format import Store
from voxmim.studies import decoder, masking, resolution, scaling
from voxmim.studies import trial as trial_module
from voxmim.studies.study import STUDIES
from voxmim.studies.trial import Trial
from voxmim.training.run import RECIPE as RECIPE_FILE

pytestmark = pytest.mark.timeout(900)  # the fixture runs all studies

SHORT = {"steps": 2, "validate_every": 1, "checkpoint_every": 2, "batch": 1, "crops_per_scan": 1, "lr": 1e-3}
RECIPE = {
    **TINY_RECIPE, "crop": [16, 16, 16], "overlap": 0.0, "lrs": [1e-3],
    "pretrain": {**SHORT, "steps": 3}, "finetune": SHORT,  # so that SimMIM runs two steps
}  # fmt: skip
SPLITS = {"train": ["phantom_000", "phantom_001"], "val": ["phantom_002"], "test": ["phantom_003", "phantom_004"]}
SPACING = (24.0, 24.0, 24.0)  # mm


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The result of each study; "where" has the folder of studies and the store."""
    folder = tmp_path_factory.mktemp("studies")
    write_cohort(folder / "phantoms", 5, seed=2)
    (folder / "phantoms" / "splits.json").write_text(json.dumps(SPLITS))
    for kind in ("ct", "mr"):
        api.prepare(folder / "phantoms", folder / kind, SPACING, intensity=kind, workers=1, quiet=True)
    write_recipe(folder / "recipe.yaml", make_recipe(RECIPE))
    run_trial, done = trial_module._run, {}

    def copy(trial: Trial, out: Path) -> None:
        kind = trial.kind, trial.recipe.pretext if trial.kind == "pretrain" else ""
        if kind not in done:
            run_trial(trial, out)
            done[kind] = trial.result(out) if trial.kind == "evaluate" else trial.path(out)
        elif trial.kind == "evaluate":
            shutil.copy(done[kind], trial.result(out))
        else:
            write_recipe(shutil.copytree(done[kind], trial.path(out)) / RECIPE_FILE, trial.own_recipe)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial_module, "_run", copy)
        patch.setattr("voxmim.report.run_pictures._SHOWN", 1)
        patch.setattr("voxmim.report.markdown.png", lambda _: b"")  # tests/report/test_markdown.py draws them
        patch.setattr(masking, "RATIOS", (0.75,))
        patch.setattr(decoder, "DEPTHS", (1, 2))
        patch.setattr(scaling, "SCANS", (1,))
        patch.setattr("voxmim.workers.cores", lambda: 1)
        results: dict[str, dict[str, Any]] = {"where": {"out": folder / "out", "ct": folder / "ct"}}
        for name in STUDIES:
            stores = [folder / "ct", folder / "mr"] if name == "transfer" else folder / "ct"
            labels = {"labels": ["1", "all"], "unlabelled": ["1"]}.get(name, "all")
            settings = {"finetune.ema": 0.9} if name == "unlabelled" else {}
            results[name] = api.study(
                name, stores, folder / "out", 1, recipe=folder / "recipe.yaml", settings=settings, labels=labels,
                accept_findings=name == "transfer",  # since these MRs are CTs
            )  # fmt: skip
    return results


def test_every_study_completes_and_shows_its_results(answers: dict[str, dict[str, Any]]) -> None:
    for name in STUDIES:
        result, folder = answers[name], answers["where"]["out"] / name
        assert {trial["state"] for trial in result["trials"]} == {"done"}
        assert result["tables"][0]["rows"][0][0] == "position-only prior"
        assert result["found"]
        for file in ("report.html", "page.md", "results.csv", "study.json"):
            assert (folder / file).stat().st_size > 1000
        markdown, pictures = (folder / "page.md").read_text(), sorted((folder / "pictures").iterdir())
        assert pictures
        for picture in pictures:
            assert f"(pictures/{picture.name})" in markdown


def test_trials_shared_by_several_studies_are_trained_once(answers: dict[str, dict[str, Any]]) -> None:
    own = {name: {t["trial"] for t in answers[name]["trials"]} for name in STUDIES}
    plain = {trial for trial in own["convergence"] if trial.startswith("pretrain-mae")}
    assert len(plain) == 1
    for name in (
        "labels",
        "decoder",
        "resolution",
        "transfer",
        "pretraining",
        "unlabelled",
        "scaling",
    ):  # all of these contain MAE with the settings of the recipe
        assert plain <= own[name]
    folders = [path for path in (answers["where"]["out"] / "trials").iterdir() if path.is_dir()]
    trainings = set().union(*own.values()) - {t for names in own.values() for t in names if t.startswith("evaluate")}
    assert {folder.name for folder in folders} == trainings
    # one pre-training for the fine-tunings on one label and on all
    assert len([t for t in own["labels"] if t.startswith("finetune-from-mae")]) == 2
    assert len([t for t in own["labels"] if t.startswith("pretrain-mae")]) == 1


def arms_of(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [(arm["group"], arm["name"]) for arm in result["arms"]]


def pretrained_on(result: dict[str, Any]) -> list[str]:
    table = next(table for table in result["tables"] if table["title"] == "Pre-trainings")
    return [row[table["header"].index("on")] for row in table["rows"]]


def test_the_masking_study_crosses_ratios_and_mask_kinds(answers: dict[str, dict[str, Any]]) -> None:
    result = answers["masking"]
    names = [name for _, name in arms_of(result)]
    assert len(names) == 2 + 2 * 3  # from scratch with each patch; each pretext with three kinds of masks
    assert "MAE, patch 4, unit 8, 75%" in names
    assert "SimMIM, patch 8, unit 8, 75%" in names
    # of each pretext one arm was tested, the best on validation cases, and from scratch with its patch
    tested = [arm for arm in result["arms"] if arm["test"]]
    for pretext in ("MAE", "SimMIM"):
        best = max((arm for arm in result["arms"] if arm["name"].startswith(pretext)), key=lambda a: a["validation"][0])
        assert [arm for arm in tested if arm["name"].startswith(pretext)] == [best]
    patches = {arm["group"] for arm in tested if "scratch" not in arm["name"]}
    assert {arm["group"] for arm in tested if "scratch" in arm["name"]} == patches
    page = (answers["where"]["out"] / "masking" / "page.md").read_text()
    assert "MAE: Dice after fine-tuning" in page
    assert all(f" minus from scratch, {patch}, Dice on test cases" in page for patch in patches)
    assert "SimMIM, patch 4, unit 4, 75%: Reconstruction of phantom_002" in page


def test_the_decoder_study_reports_the_cost_of_a_step(answers: dict[str, dict[str, Any]]) -> None:
    result = answers["decoder"]
    names = [name for _, name in arms_of(result)]
    assert names[0] == "from scratch"
    assert names[-1] == "SimMIM, linear head"
    assert "MAE, depth 1, width 8" in names
    assert "MAE, depth 2, width 16" in names
    costs = next(table for table in result["tables"] if table["title"] == "Cost of a step")
    assert [row[0].rstrip("*") for row in costs["rows"]] == names[1:]
    assert all(float(row[1]) >= 0 for row in costs["rows"])
    assert {arm["name"] for arm in result["arms"] if arm["test"]} >= {"from scratch", "MAE, depth 1, width 8"}


def test_the_unlabelled_study_uses_scans_before_the_fine_tuning_during_it_and_both(
    answers: dict[str, dict[str, Any]],
) -> None:
    names = [name for _, name in arms_of(answers["unlabelled"])]
    assert names == ["from scratch", "from scratch, twice the steps", "self-training", "MAE", "MAE and self-training"]
    plateaus = next(t for t in answers["unlabelled"]["tables"] if t["title"] == "Plateaus on validation cases")
    assert [row[0].rstrip("*").split(",")[0] for row in plateaus["rows"]] == [name.split(",")[0] for name in names]


def test_the_scaling_study_crosses_scans_and_steps(answers: dict[str, dict[str, Any]]) -> None:
    names = [name for _, name in arms_of(answers["scaling"])]
    every = len(Store(answers["where"]["ct"]).in_split("train", "unlabelled"))
    numbers = [name.removeprefix("MAE, ").split(", ") for name in names[1:]]
    assert names[0] == "from scratch"
    assert [scans for scans, _ in numbers] == ["1 scan"] * 3 + [f"{every} scans"] * 3
    assert len({steps for _, steps in numbers}) == 3
    page = (answers["where"]["out"] / "scaling" / "page.md").read_text()
    assert "What pre-training gains by its length and its scans" in page


def test_the_labels_study_reports_numbers_of_labelled_cases(answers: dict[str, dict[str, Any]]) -> None:
    groups = [group for group, _ in arms_of(answers["labels"])]
    assert list(dict.fromkeys(groups)) == ["1 labelled case", "all labelled cases"]
    titles = [table["title"] for table in answers["labels"]["tables"]]
    assert titles[:2] == ["Test cases, 1 labelled case", "Test cases, all labelled cases"]
    every = len(Store(answers["where"]["ct"]).labelled("train"))
    assert answers["labels"]["facts"]["labelled cases"] == f"1 of {every}, {every} of {every}"


def test_the_resolution_study_crosses_spacings_and_crops(answers: dict[str, dict[str, Any]]) -> None:
    result, fine = answers["resolution"], Store(answers["where"]["ct"])
    (coarse_path,) = (answers["where"]["out"] / "stores").iterdir()
    coarse = Store(coarse_path)
    assert coarse.preparation.spacing == tuple(resolution.COARSER * size for size in SPACING)
    assert {case.name: case.split for case in coarse.cases.values()} == {
        case.name: case.split for case in fine.cases.values()
    }
    arms = arms_of(result)
    assert ("fine-tuned at 36 x 36 x 36 mm, crop 16 x 16 x 16", "MAE at 24 x 24 x 24 mm, crop 16 x 16 x 16") in arms
    assert ("fine-tuned at 24 x 24 x 24 mm, crop 12 x 12 x 12", "MAE at 24 x 24 x 24 mm, crop 16 x 16 x 16") in arms
    assert len(arms) == 4 + 3 + 3
    at = "voxmim phantoms, CT at {} mm, crop {}".format
    assert pretrained_on(result) == [
        at("24 x 24 x 24", "16 x 16 x 16"),
        at("36 x 36 x 36", "16 x 16 x 16"),
        at("24 x 24 x 24", "12 x 12 x 12"),
    ]


def test_the_transfer_study_transfers_in_both_directions(answers: dict[str, dict[str, Any]]) -> None:
    ct, mr = "voxmim phantoms (CT)", "voxmim phantoms (MR)"
    assert arms_of(answers["transfer"]) == [
        (f"fine-tuned on {ct}", "from scratch"),
        (f"fine-tuned on {ct}", f"pre-trained on {ct}"),
        (f"fine-tuned on {ct}", f"pre-trained on {mr}"),
        (f"fine-tuned on {mr}", "from scratch"),
        (f"fine-tuned on {mr}", f"pre-trained on {mr}"),
        (f"fine-tuned on {mr}", f"pre-trained on {ct}"),
    ]
    assert [name.split(" at ")[0] for name in pretrained_on(answers["transfer"])] == [
        "voxmim phantoms, CT",
        "voxmim phantoms, MR",
    ]


def test_the_transfer_study_needs_two_stores(answers: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="takes 2 stores or more"):
        api.study("transfer", answers["where"]["ct"], tmp_path / "out")
