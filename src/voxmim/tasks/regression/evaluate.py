"""How good a regressor is, and its predictions of new scans."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from voxmim.errors import SourceError
from voxmim.sources import channel_files
from voxmim.store.prepare import PreparedScan
from voxmim.tasks.classification.inference import scan_output
from voxmim.tasks.classification.labels import Listed, read_column
from voxmim.tasks.classification.predict import PREDICTIONS
from voxmim.tasks.classification.score_scans import metric_rows, score_scans, table_note
from voxmim.tasks.regression.metrics import CONVENTION, METRICS, summarise
from voxmim.tasks.scans import Progress, for_each, scan_files
from voxmim.tasks.task import Predictor, ResultTable, write_table
from voxmim.weights.join import load_joined
from voxmim.weights.load import load_regressor

VALUE = "value"  # the column of the table


class Regressor(Predictor):
    """A trained regressor."""

    @classmethod
    def load(cls, *runs: Path | str) -> "Regressor":
        """From a fine-tuning's run folder or a weights file, or several to average, onto a GPU if there is one."""
        return cls(*load_joined(load_regressor, runs))

    def value(self, scan: PreparedScan) -> float:
        """The predicted number."""
        return float(scan_output(self.network, self.image(scan), self.crop, self.metadata["precision"]))


def read_values(file: Path) -> dict[str, float]:
    """The number of each case that a CSV file lists in the columns ``case`` and ``value``.

    Raises:
        SourceError: as `read_column`, one is no number, or all are the same.
    """
    values: dict[str, float] = {}
    for case, text in read_column(file, VALUE).items():
        try:
            values[case] = float(text)
        except ValueError:
            values[case] = float("nan")
        if not abs(values[case]) < float("inf"):
            raise SourceError(f"{file}: the value of case '{case}' is '{text}', which is no number; correct it.")
    if len(set(values.values())) < 2:
        raise SourceError(f"{file}: at least two different values are needed; add cases.")
    return values


def evaluate(
    run: Path,
    data: Path,
    split: str = "test",
    listed: Listed | None = None,
    table: Path | None = None,
    on_case: Progress | None = None,
    others: Sequence[Path] = (),
) -> dict[str, Any]:
    """Score a regressor on scans; arguments and errors as of a classifier's `evaluate`.

    Returns:
        what `metrics.summarise` gives, with ``task``, ``run``, ``data``, ``split``, ``convention``, ``left_out`` and,
        with `table`, its path and sentences on cases left out under ``notes``.
    """
    regressor = Regressor.load(run, *others)
    truth, found, about = score_scans(
        regressor, regressor.value, run, data, split, listed, table, read_values, VALUE, "--values", on_case
    )
    summary = summarise(truth, found, regressor.metadata["guess"])
    return {"task": "regression", **about, "convention": CONVENTION, **summary}


def result_tables(result: Mapping[str, Any]) -> list[ResultTable]:
    """An evaluation's figures beside those of constant guessing."""
    title = f"Results on {len(result['cases'])} cases of the split '{result['split']}'"
    header = ["metric", "value", "95 % interval", "constant guess"]
    return [ResultTable(title, header, metric_rows(METRICS, result), table_note(result))]


def write_csv(file: Path, result: Mapping[str, Any]) -> None:
    """Write an evaluation as CSV: a row per case."""
    rows = ([case["case"], case["value"], f"{case['predicted']:.6g}"] for case in result["cases"])
    write_table(file, ["case", "value", "predicted"], rows)


def predict(
    run: Path, scans: Sequence[Path], out: Path, on_case: Progress | None = None, others: Sequence[Path] = ()
) -> list[Path]:
    """Write ``predictions.csv``: case, predicted number; arguments and errors as of a classifier's `predict`."""
    regressor = Regressor.load(run, *others)
    files = channel_files(scan_files(scans), len(regressor.preparation.channels))
    found, _ = for_each(files, lambda _, images: regressor.value(regressor.prepare(images)), on_case)
    write_table(out / PREDICTIONS, ["case", "predicted"], [[name, f"{value:.6g}"] for name, value in found.items()])
    return [out / PREDICTIONS]
