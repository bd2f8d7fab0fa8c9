"""The benchmarks run at toy size and write their results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = {
    "step": "MAE, toy size",
    "finetune": "UNETR step against MONAI in bf16",
    "predict": "prediction against MONAI in bf16",
    "crops": "crops against PersistentDataset",
    "prepare": "prepare against MONAI's transforms",
    "scale": "MAE step, 2 threads against 1",
    "commands": None,
    "gpu": "MAE ViT",
}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the package benchmarks importable, also in subprocesses."""
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT}")


@pytest.mark.parametrize("name", ROWS)
def test_benchmark_runs_and_writes_its_ratios(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import gpu
    from benchmarks.__main__ import main

    monkeypatch.setattr(gpu, "time_command", lambda *_: {"steps": 1.0, "waiting": 1.0})  # the benchmark commands has it
    main([name, "--smoke", "--json", str(tmp_path / "results.json")])
    results, row = json.loads((tmp_path / "results.json").read_text()), ROWS[name]
    assert f"### {name}" in capsys.readouterr().out
    if row is not None:
        assert 0 < results["ratios"][row]["min"] <= results["ratios"][row]["median"] <= results["ratios"][row]["max"]
    else:
        assert results["figures"]["pretrain tiny, whole command"]["value"] > 0


def test_ratio_is_the_median_over_rounds() -> None:
    from benchmarks.timing import Report

    report = Report()
    report.ratio("row", [4.0, 6.0, 9.0], [2.0, 2.0, 1.0])
    assert report.as_json()["ratios"] == {"row": {"median": 3.0, "min": 2.0, "max": 9.0}}
    assert "| row | **3.00** (2.00 to 9.00) |" in report.table("x")


def test_peak_memory_is_that_of_the_work() -> None:
    import numpy as np
    from benchmarks.timing import peak_memory

    assert 0.24 < peak_memory(lambda: np.ones(2**25)) < 0.3  # 256 MiB


@pytest.fixture
def output_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the main function of a script with options, and returns what it prints."""

    def run(main: Callable[[], None], *options: str) -> str:
        monkeypatch.setattr("sys.argv", ["script.py", *options])
        main()
        return capsys.readouterr().out

    return run


def test_evaluations_are_compared_by_case_and_seed_from_json_and_csv(
    tmp_path: Path, output_of: Callable[..., str]
) -> None:
    from benchmarks.compare import main

    gains = {"scratch": (0.0, 0.0), "mae": (0.1, 0.2)}
    for name, gains_of_seeds in gains.items():
        for seed, gain in enumerate(gains_of_seeds):
            cases = [{"case": f"case_{i}", "dice": {"bone": 0.5 + 0.01 * i + gain, "fat": None}} for i in range(5)]
            (tmp_path / f"{name}{seed}.json").write_text(json.dumps({"cases": cases}))
    table = str(tmp_path / "scores.csv")
    sides = [str(tmp_path / f"{name}{seed}.json") for name in gains for seed in range(2)]
    printed = output_of(main, "--first", *sides[:2], "--second", *sides[2:], "--csv", table)
    assert printed == output_of(main, "--csv", table)
    assert "second minus first: +0.1500 (" in printed
    assert "second: 0.670 (" in printed


def test_curves_give_steps_to_the_plateau_and_break_even_from_runs_and_csv(
    tmp_path: Path, output_of: Callable[..., str]
) -> None:
    from benchmarks.curves import main

    dice = {"scratch": [0.2, 0.4, 0.4, 0.4], "mae": [0.3, 0.5, 0.5, 0.5]}
    for name, scores in dice.items():
        for seed in range(2):
            run = tmp_path / f"{name}{seed}"
            run.mkdir()
            (run / "run.json").write_text(json.dumps({"kind": "finetune"}))
            validated = [f"{100 * i},{score + 0.1 * seed}" for i, score in enumerate(scores, 1)]
            (run / "metrics.csv").write_text("".join(f"{row}\n" for row in ["step,val_dice", "50,", *validated]))
    table, picture = tmp_path / "curves.csv", tmp_path / "curves.png"
    arms = [["--arm", name, str(tmp_path / f"{name}0"), str(tmp_path / f"{name}1")] for name in dice]
    costs = ["--step-seconds", "0.6", "--pretraining-minutes", "2", "--png", str(picture), "--csv", str(table)]
    printed = output_of(main, *arms[0], *arms[1], *costs)
    assert printed == output_of(main, *costs)
    assert "scratch: plateau 0.450 at step 200 of 400, done" in printed
    # from 0.35 at step 100 to 0.55 at step 200; 50 steps of 0.01 minutes are saved, so 4 fine-tunings pay for 2 minutes
    assert "mae, 100% of that of scratch: 150 steps; scratch: 200; break-even: 4.0 fine-tunings" in printed
    assert picture.stat().st_size > 0
