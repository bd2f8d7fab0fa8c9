from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

from command_line import parsed
from conftest import Sorted
from voxmim import api
from voxmim.report.classifier_page import classify_page
from voxmim.report.run_pages import repeat_command
from voxmim.training.run import Run


def text_of(path: Path) -> str:
    """The report's text without its tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", (path / "report.html").read_text()))


def test_a_report_tells_what_was_run_and_seen(tiny_sorted: Sorted, tmp_path: Path) -> None:
    path = shutil.copytree(tiny_sorted.run, tmp_path / "run")
    text, rows = text_of(path), [row for row in Run.open(path).metrics() if "val_score" in row]
    best = max(rows, key=lambda row: row["val_score"])
    for said in (
        "A classifier of whole scans was trained from scratch on 18 cases, for 80 steps.",
        f"Its best AUROC on validation cases was {best['val_auroc']:.3f}, at step {int(best['step'])}",
        "cases in test 3 dense, 3 light",
        "weights that moved none",
        "whole validation scans",
    ):
        assert said in text, said
    assert "Results" not in text
    result = api.evaluate(path, tiny_sorted.store)
    text = text_of(path)
    assert "Results on 6 cases of the split" in text
    assert f"AUROC {result['auroc']['value']:.3f}" in text
    assert "called dense" in text
    assert result["convention"] in text
    assert f"voxmim evaluate {path} {tiny_sorted.store} --split test" in text


def test_a_probes_report_and_one_without_its_store_say_so(tiny_sorted: Sorted, tmp_path: Path) -> None:
    path = shutil.copytree(tiny_sorted.run, tmp_path / "run")
    recipe = (path / "recipe.yaml").read_text()
    first, own = recipe.split("finetune:")
    (path / "recipe.yaml").write_text(f"{first}finetune:{own.replace('freeze: 0.0', 'freeze: 1.0')}")
    run = Run.open(path)
    run.about |= {"store": str(tmp_path / "gone"), "notes": ["two were left out."]}
    classify_page(run)
    text = text_of(path)
    assert "A linear probe was trained" in text
    assert "The encoder was kept as it was" in text
    assert "left out or drawn two were left out." in text


def test_the_command_to_repeat_a_run_is_one_that_can_be_given(tiny_sorted: Sorted) -> None:
    program, *arguments = shlex.split(repeat_command(Run.open(tiny_sorted.run)))
    told = parsed(arguments)
    assert (program, told.task, told.classes) == ("voxmim", "classification", tiny_sorted.classes.resolve())
    assert (told.labels, told.init) == ("18", None)
