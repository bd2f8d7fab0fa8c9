from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest

from command_line import flat, stub
from conftest import TinyRuns
from voxmim import api, cli
from voxmim.recipe import load_recipe, packaged_recipes

Maker = Callable[..., Path]
RunVoxmim = Callable[..., tuple[int, str, str]]

# Errors


def failing_commands(runs: TinyRuns, empty: Path) -> Iterator[tuple[list[object], str]]:
    """Commands that fail, and their error messages."""
    yield ["prepare", empty / "gone", empty / "out"], r"gone: there is no such folder or list; check the path\."
    yield ["prepare", empty, empty / "out"], r"empty: there is no scan \(DICOM, \.nii, .*\) in this folder"
    yield ["prepare", runs.source, empty / "out", "--seed", -1], r"the seed of the split is -1, but must be 0 or more"
    yield ["prepare", runs.source, empty / "out", "--spacing", 1, 0, 1], r"spacing \(1\.0, 0\.0, 1\.0\) must be three"
    yield ["pretrain", empty, empty / "out"], r"empty: this is not a store \(no index\.json\); make one with"
    yield ["pretrain", runs.store, runs.pretrain], r"pretrain: there is something here already; add --resume"
    yield ["pretrain", runs.store, empty / "out", "--resume"], r"out: this is not a run folder \(no run\.json\)"
    yield ["pretrain", runs.store, runs.finetune, "--resume"], "this run is a finetune, but a pretrain is needed here"
    yield ["pretrain", runs.store, runs.pretrain, "--resume", "--lr", 1], r"leave out pretrain\.lr"
    yield ["pretrain", runs.store, runs.pretrain, "--resume", "--recipe", "tiny"], "leave out recipe"
    options = ["--init", runs.pretrain, "--labels", 2]
    yield ["finetune", runs.store, runs.finetune, "--resume", *options], "leave out init, labels"
    yield (
        ["pretrain", runs.store, empty / "out", "--recipe", "tinny"],
        "recipe 'tinny' is not known; did you mean 'tiny'",
    )
    yield ["pretrain", runs.store, empty / "out", "--recipe", "x.yaml"], r"x\.yaml: there is no such recipe file"
    yield ["pretrain", runs.store, empty / "out", "--set", "mask.ratoi=0.5"], "did you mean 'mask.ratio'"
    yield ["pretrain", runs.store, empty / "out", "--set", "mask.ratio"], r"write it as KEY=VALUE"
    yield ["pretrain", runs.store, empty / "out", "--set", "crop=[8,"], r"--set crop=\[8,: '\[8,' is no valid value"
    yield ["pretrain", runs.store, empty / "out", "--set", "crop=[8, 8]"], "a setting has a value that does not fit"
    yield ["pretrain", runs.store, empty / "out", "--precision", "64"], "a setting has a value that does not fit"
    yield ["pretrain", runs.store, empty / "out", "--seed", -1], "seed is -1, but must be at least 0"
    yield (
        ["finetune", runs.store, empty / "out", "--labels", "lots"],
        r"--labels lots: give all, a fraction such as 0\.1",
    )
    yield ["finetune", runs.store, empty / "out", "--init", empty], r"empty: there is no encoder\.safetensors here"
    yield ["pretrain", runs.store, runs.pretrain, "--resume", "--init", runs.pretrain], "leave out init"
    yield ["pretrain", runs.store, empty / "out", "--init", empty], r"empty: there is no encoder\.safetensors here"
    scans = ["--like", runs.store]
    own = runs.pretrain / "encoder.safetensors"
    yield ["import", own, empty / "out", *scans], "voxmim wrote these weights; start from them with --init"
    yield ["import", own, empty / "out"], "voxmim wrote these weights; start from them with --init"
    yield ["import", own, runs.pretrain, *scans], "this is not empty; name another folder"
    yield ["import", runs.pretrain / "last.ckpt", empty / "out", *scans], r"last\.ckpt: this cannot be imported, since"
    yield ["export", runs.pretrain, empty / "out.bin"], r"out\.bin: the file name must end in \.safetensors or \.pt"
    yield ["export", runs.pretrain, empty / "out.pt"], "MONAI's UNETR has patches of 16 and 12 blocks"
    yield ["export", empty, empty / "out.pt"], r"there is no encoder\.safetensors here"
    yield ["evaluate", runs.pretrain, runs.store], "this run is a pretrain, but a finetune is needed here"
    yield ["evaluate", runs.finetune, empty], r"empty: there is no scan"
    yield ["evaluate", runs.finetune, runs.store, "--tolerance", -1], r"tolerance -1\.0 mm: it must be 0 or more"
    yield ["predict", runs.finetune, empty / "[b].nii", "--out", empty], r"\[b\]\.nii: there is no such scan or folder"
    yield ["reconstruct", runs.finetune, runs.source / "imagesTr", "--out", empty], r"there is no pretext\.safetensors"
    yield ["phantom", runs.source, "--cases", 4], "is not an empty folder; choose another one"
    yield ["phantom", empty / "out", "--cases", 2], r"2 phantoms cannot be split"
    yield ["demo", "--data", empty, "--out", runs.source], "there is something else here already"
    yield ["demo", "--data", empty, "--out", runs.recipe], r"recipe\.yaml: there is something else here already"
    yield ["recipes", "vit"], "recipe 'vit' is not known"
    yield ["pretrain", runs.store, runs.recipe / "out", "--recipe", runs.recipe], r"recipe\.yaml"  # a path below a file


def test_an_error_gives_one_sentence_and_exit_status_2(
    tiny_runs: TinyRuns, tmp_path: Path, run_voxmim: RunVoxmim
) -> None:
    wrong = []
    for arguments, expected in failing_commands(tiny_runs, tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        status, _, error = run_voxmim(*arguments)
        sentence = error.startswith("error: ") and error.count("\n") == 1 and error.endswith((".\n", "?\n"))
        if status != 2 or not sentence or not re.search(expected, error) or any((tmp_path / "empty").iterdir()):
            wrong.append((arguments, expected, error))
    assert not wrong, "\n".join(f"{expected!r} is not in {error!r}" for _, expected, error in wrong)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("tell", 'Unknown command "tell"'),
        ("predict run scan", "--out"),
        ("predict run --out x", "SCANS"),
        ("evaluate a b --split some", 'Choose from: "train", "val", "test", "all"; see \'voxmim evaluate --help\''),
        ("prepare a b --spacing 1 2", "--spacing requires 3"),
        ("pretrain a b --stepps 3", "Did you mean --steps"),
        ("pretrain a b --steps many", "many"),
    ],
)
def test_a_command_that_cannot_be_parsed_is_refused(run_voxmim: RunVoxmim, arguments: str, expected: str) -> None:
    status, _, error = run_voxmim(*arguments.split())
    assert status == 2
    assert error.startswith("error: ")
    assert expected in error
    assert error.count("\n") == 1


def test_without_a_command_help_is_printed_with_exit_status_2(run_voxmim: RunVoxmim) -> None:
    status, output, _ = run_voxmim()
    assert (status, "Commands" in output) == (2, True)


def test_an_interrupt_is_not_reported_as_an_error(run_voxmim: RunVoxmim, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    stub(monkeypatch, "phantom", interrupt)
    stub(monkeypatch, "pretrain", interrupt)
    status, _, error = run_voxmim("phantom", "out")
    assert (status, error) == (130, "stopped.\n")
    status, _, error = run_voxmim("pretrain", "store", "out")
    assert (status, error) == (130, "stopped; --resume continues from the last checkpoint.\n")


def test_an_internal_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError

    stub(monkeypatch, "phantom", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["phantom", "out"])


# Commands


def test_inspect_prints_a_table_and_sets_the_exit_status(
    tiny_source: Maker, tmp_path: Path, run_voxmim: RunVoxmim
) -> None:
    source = tiny_source(cases=2)
    status, output, _ = run_voxmim("inspect", source, "--workers", 1)
    assert status == 0
    assert output.endswith("Nothing is wrong with 4 files.\n")
    assert "Findings" not in output
    (source / "imagesTr" / "case_1.nii.gz").write_bytes(b"junk")
    report = tmp_path / "report.json"
    status, output, _ = run_voxmim(
        "inspect", source, "--workers", 1, "--json", report, "--html", tmp_path / "page.html"
    )
    assert status == 1
    assert "unreadable" in output
    assert "1 finding in 4 files: 1 left out." in flat(output)
    files = {Path(scan["file"]).name: scan["findings"] for scan in json.loads(report.read_text())["scans"][:2]}
    assert files["case_0.nii.gz"] == []
    assert [(one["kind"], one["action"]) for one in files["case_1.nii.gz"]] == [("unreadable", "left out")]
    assert (tmp_path / "page.html").is_file()


def test_prepare_reports_the_number_of_cases_left_out(
    tiny_source: Maker, tmp_path: Path, run_voxmim: RunVoxmim
) -> None:
    source = tiny_source(cases=3)
    scan = source / "imagesTr" / "case_1.nii.gz"
    whole = scan.read_bytes()
    scan.write_bytes(whole[: len(whole) // 2])
    status, output, errors = run_voxmim("prepare", source, tmp_path / "store", "--workers", 1)
    assert status == 1
    assert "1 case left out for the reasons above" in output
    assert re.search(r"CT at 1 x 1 x 1 mm: 2 train done: 2 cases prepared, 0 there already: .*store", flat(output))
    assert re.search(r"left out .*case_1\.nii\.gz: the file is cut off or damaged; copy it again\.", errors)

    scan.write_bytes(whole)
    status, output, _ = run_voxmim("prepare", source, tmp_path / "store", "--workers", 1)
    assert status == 0
    assert "1 case prepared, 2 there already" in flat(output)


def test_recipes_are_listed_and_printed(tmp_path: Path, run_voxmim: RunVoxmim) -> None:
    status, output, _ = run_voxmim("recipes")
    assert status == 0
    for name, about in packaged_recipes().items():
        assert name in output
        assert about.split()[0] in output
    status, output, _ = run_voxmim("recipes", "vit-b-btcv")
    assert status == 0
    (tmp_path / "printed.yaml").write_text(output)
    assert load_recipe(tmp_path / "printed.yaml") == load_recipe("vit-b-btcv")


def test_short_options_set_training_settings(monkeypatch: pytest.MonkeyPatch, run_voxmim: RunVoxmim) -> None:
    calls: list[dict[str, Any]] = []
    for name in ("pretrain", "finetune"):
        stub(monkeypatch, name, lambda **given: calls.append(given) or Path("out"))
        monkeypatch.setattr(f"voxmim.commands.{name}", lambda *_: None)
    short = ["--steps", 7, "--batch", 4, "--lr", "1e-4", "--seed", 3, "--devices", 2, "--precision", "bf16"]
    short += ["--accumulate", 2, "--nodes", 3, "--compile"]
    own = ["--set", "mask.ratio=0.6", "--set", "crop=[8, 8, 16]", "-s", "window=null"]
    shared = {"mask.ratio": 0.6, "crop": [8, 8, 16], "window": None, "seed": 3, "devices": 2, "precision": "bf16"}
    shared |= {"nodes": 3, "compile": True}
    nothing = {"recipe": None, "resume": False, "init": None, "accept_findings": False, "quiet": False, "log_every": 0}
    nothing |= {"hours": None, "log": ()}

    assert run_voxmim("pretrain", "s", "o", "--resume", *short, *own)[0] == 0
    settings = {**shared, "pretrain.steps": 7, "pretrain.batch": 4, "pretrain.lr": 1e-4, "pretrain.accumulate": 2}
    expected = {**nothing, "store": Path("s"), "out": Path("o"), "resume": True, "settings": settings}
    assert calls.pop() == expected

    assert run_voxmim("finetune", "s", "o", "--init", "i", "--labels", "0.1", "--recipe", "r", *short, *own)[0] == 0
    settings = {**shared, "finetune.steps": 7, "finetune.batch": 4, "finetune.lr": 1e-4, "finetune.accumulate": 2}
    nothing |= {"store": Path("s"), "out": Path("o"), "task": None, "classes": None, "values": None, "fold": None}
    expected = {**nothing, "init": Path("i"), "labels": "0.1", "recipe": "r", "settings": settings}
    given = calls.pop()
    assert given | {"recipe": str(given["recipe"])} == expected

    assert run_voxmim("finetune", "s", "o", "--lr", "0.5")[0] == 0  # also sets the learning rate from scratch
    assert calls.pop() == {**nothing, "labels": None, "settings": {"finetune.lr": 0.5, "scratch_lr": 0.5}}


def test_an_evaluation_ends_with_a_table_and_the_path_of_the_result(
    tiny_runs: TinyRuns, tmp_path: Path, run_voxmim: RunVoxmim
) -> None:
    run = tiny_runs.finetune / "segmentor.safetensors"
    status, output, _ = run_voxmim(
        "evaluate", run, tiny_runs.store, "--split", "val", "--json", tmp_path / "a.json", "--csv", tmp_path / "a.csv"
    )
    assert status == 0
    result = json.loads((tmp_path / "a.json").read_text())
    assert "2 cases of the split 'val'" in flat(output)
    for name in ("bone", "fat", "mean"):
        scores = result["mean"] if name == "mean" else result["labels"][name]
        prior = result["prior"]["mean"] if name == "mean" else result["prior"]["labels"][name]
        row = next(line for line in output.splitlines() if line.startswith(f"│ {name}"))
        for figure in (f"{scores['dice']:.3f}", f"{prior['dice']:.3f}", f"{scores['nsd']:.3f}"):
            assert figure in row
    assert result["convention"] in flat(output)
    assert output.rstrip().endswith(f"the result: {tmp_path / 'a.json'}")
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 5


def test_an_evaluation_names_the_run_only_if_it_wrote_the_result_there(
    tiny_runs: TinyRuns, tmp_path: Path, run_voxmim: RunVoxmim
) -> None:
    run = shutil.copytree(tiny_runs.finetune, tmp_path / "run")
    command = ("evaluate", run, tiny_runs.store, "--split", "val")
    assert f"the result: {run / 'evaluation-val.json'}" in run_voxmim(*command)[1]
    before = (run / "evaluation-val.json").read_bytes()
    for other in (["--all-components"], ["--ensemble", run]):
        assert "the result:" not in run_voxmim(*command, *other)[1]
    assert (run / "evaluation-val.json").read_bytes() == before


def test_predict_and_reconstruct_write_to_the_given_folder(
    tiny_runs: TinyRuns, tmp_path: Path, run_voxmim: RunVoxmim
) -> None:
    scan = tiny_runs.source / "imagesTr" / "case_7.nii.gz"
    status, output, _ = run_voxmim("predict", tiny_runs.finetune, scan, "--out", tmp_path / "a", "--probabilities")
    assert status == 0
    assert output.rstrip().endswith(f"done: 1 label map: {tmp_path / 'a'}")
    assert nib.load(tmp_path / "a" / "case_7_probabilities.nii.gz").shape == (20, 18, 16, 3)
    status, output, _ = run_voxmim("reconstruct", tiny_runs.pretrain, scan, "--out", tmp_path / "b", "--seed", 4)
    assert status == 0
    assert output.rstrip().endswith(f"done: 1 picture with NIfTI volumes: {tmp_path / 'b'}")
    assert len(list((tmp_path / "b").iterdir())) == 4


@pytest.mark.parametrize("command", ["predict", "reconstruct", "evaluate"])
def test_the_exit_status_is_1_if_a_scan_is_left_out(
    tiny_runs: TinyRuns, tmp_path: Path, run_voxmim: RunVoxmim, command: str
) -> None:
    """One of two cases in a list is truncated."""
    whole = tiny_runs.source / "imagesTr" / "case_7.nii.gz"
    label = tiny_runs.source / "labelsTr" / "case_7.nii.gz"
    (tmp_path / "cut.nii.gz").write_bytes(whole.read_bytes()[:300])
    rows = [f"{name},{image},{label},test" for name, image in (("whole", whole), ("cut", "cut.nii.gz"))]
    (tmp_path / "list.csv").write_text("\n".join(["case,image,label,split", *rows]))
    run = tiny_runs.pretrain if command == "reconstruct" else tiny_runs.finetune / "segmentor.safetensors"
    option = "--json" if command == "evaluate" else "--out"
    status, output, errors = run_voxmim(command, run, tmp_path / "list.csv", option, tmp_path / "out")
    assert (status, errors.count("left out: ")) == (1, 1)
    assert "done: " in output


def test_phantoms_are_written_in_the_decathlons_layout(tmp_path: Path, run_voxmim: RunVoxmim) -> None:
    status, output, _ = run_voxmim("phantom", tmp_path / "cohort", "--cases", 4, "--seed", 1)
    assert status == 0
    assert output.rstrip().endswith(f"done: 4 phantoms with labels: {tmp_path / 'cohort'}")
    scans = sorted((tmp_path / "cohort" / "imagesTr").iterdir())
    assert [file.name for file in scans] == [f.name for f in sorted((tmp_path / "cohort" / "labelsTr").iterdir())]
    assert len(scans) == 4


def test_a_store_is_verified_and_split_again(run_voxmim: RunVoxmim, tiny_source: Maker, tmp_path: Path) -> None:
    store = api.prepare(tiny_source(cases=4), tmp_path / "store", workers=1, quiet=True).store
    status, printed, _ = run_voxmim("verify", store, "--workers", 1)
    assert (status, "0 faults" in flat(printed)) == (0, True)
    status, printed, _ = run_voxmim("split", store, "--seed", 5, "--fractions", 0.25, 0.25)
    assert (status, "2 train, 1 val, 1 test, 0 unlabelled" in flat(printed)) == (0, True)
    (store / "images" / "case_1.b2nd").unlink()
    (store / "labels" / "stray.b2nd").touch()
    status, printed, _ = run_voxmim("verify", store, "--workers", 1)
    assert (status, "2 faults" in flat(printed)) == (1, True)
    assert sum(line.startswith(str(store)) and ".b2nd: " in line for line in printed.splitlines()) == 2
    status, _, complaint = run_voxmim("split", store, "--splits", tmp_path / "gone.json")
    assert (status, "gone.json" in flat(complaint)) == (2, True)


def test_doctor_prints_versions_devices_and_disk_space(run_voxmim: RunVoxmim) -> None:
    status, output, _ = run_voxmim("doctor")
    assert status == 0
    for name in ("Python", "torch", "pydicom", "CPU", "GPU", "disk, this folder"):
        assert re.search(rf"│ {name}", output), name
    assert re.search(r"precision (bf16|32)", flat(output))
    assert re.search(r"[\d.]+ GB free in", flat(output))


def test_a_demo_without_options_prints_the_path_of_its_report(
    monkeypatch: pytest.MonkeyPatch, run_voxmim: RunVoxmim
) -> None:
    scores = {"title": "Results", "header": ["arm", "Dice"], "rows": [["from scratch", "0.9"]]}
    stub(monkeypatch, "demo", lambda **given: {"tables": [scores], "found": [], "trials": []})
    status, output, _ = run_voxmim("demo")
    assert status == 0
    assert "voxmim-demo/report.html" in output
