"""Evaluation and prediction of the tasks that have one target per scan."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from voxmim.errors import SourceError, StoreError
from voxmim.files import write_csv
from voxmim.settings import Triple
from voxmim.sources import Source
from voxmim.sources.source import SPLITS
from voxmim.tasks.classification.labels import Listed, match
from voxmim.tasks.given import Scan, Written, given_scans
from voxmim.tasks.metrics import Metric
from voxmim.tasks.scans import Progress, channel_order, for_each, source_in_fold
from voxmim.tasks.task import Predictor, ResultTable, Task
from voxmim.weights.join import Loaded, load_joined

PREDICTIONS = "predictions.csv"


class ScanResults(Task):
    """A task with one target per scan, listed in a table."""

    target: ClassVar[str]  # what a target is called; the column of the table
    metrics: ClassVar[Mapping[str, Metric]]  # of an evaluation
    convention: ClassVar[str]  # how scores are counted, printed below the tables

    @staticmethod
    @abstractmethod
    def read(table: Path, /) -> Mapping[str, Any]:
        """Read the target of each case; raises SourceError."""

    @staticmethod
    @abstractmethod
    def load(path: Path | str, /) -> Loaded:
        """Load a trained network and its metadata; raises WeightsError."""

    @staticmethod
    @abstractmethod
    def infer(network: nn.Module, image: Tensor, crop: Triple, precision: str) -> Any:
        """The network's output for a scan (C, X, Y, Z), as plain numbers; see `scan_output`."""

    @staticmethod
    @abstractmethod
    def described(output: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """The entries of an output in the result of an evaluation; `metadata` is of the weights."""

    @staticmethod
    @abstractmethod
    def cells(described: Mapping[str, Any]) -> dict[str, str]:
        """The CSV columns of these entries."""

    @staticmethod
    @abstractmethod
    def summarise(truth: Mapping[str, Any], outputs: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
        """The scores, from the target and the output of each case, for JSON."""

    @classmethod
    def check(cls, truth: Mapping[str, Any], metadata: Mapping[str, Any], data: Path) -> None:
        """Raise SourceError if the network cannot predict one of the targets; it can predict any by default."""
        return

    @classmethod
    def evaluate(
        cls,
        run: Path,
        data: Path,
        split: str = "test",
        tolerance_mm: float = 2.0,
        on_case: Progress | None = None,
        others: Sequence[Path] = (),
        about: Mapping[str, Any] | None = None,
        table: Path | None = None,
    ) -> dict[str, Any]:
        """Score a network; scans are read from their files and prepared as in `predict`.

        Raises:
            SourceError: the table cannot be used, or has a target that the network cannot predict.
            StoreError: no case is in this split, or one is not in the data.
            ScanError: no case can be used.
            WeightsError: the run has no such network.
        """
        predictor = Predictor(*load_joined(cls.load, [run, *others]))
        source = source_in_fold(data, predictor.metadata)
        truth, notes = cls._targets(run, data, source, split, (about or {}).get("listed"), table)
        cls.check(truth, predictor.metadata, data)
        order = channel_order(predictor.preparation.channels, source.channels, data)
        scans = {case.name: Scan(case.images, order) for case in source.cases if case.name in truth}
        outputs, left_out = for_each(scans, lambda _, scan: cls._infer(predictor, scan), on_case)
        return {
            "task": cls.name,
            "run": str(run),
            "data": str(data),
            "split": split,
            "left_out": left_out,
            **({} if table is None else {"table": str(table), "notes": notes}),
            "convention": cls.convention,
            **cls.summarise({name: truth[name] for name in outputs}, outputs, predictor.metadata),
        }

    @classmethod
    def predict(
        cls,
        run: Path,
        scans: Sequence[Path],
        out: Path,
        probabilities: bool = False,
        on_case: Progress | None = None,
        label_format: str = "nifti",
        others: Sequence[Path] = (),
    ) -> Written:
        """Write ``predictions.csv``; scans that cannot be used are left out."""
        predictor = Predictor(*load_joined(cls.load, [run, *others]))
        found, left_out = given_scans(scans, predictor.preparation.channels)
        outputs, failed = for_each(found, lambda _, scan: cls._infer(predictor, scan), on_case)
        described = {name: cls.described(output, predictor.metadata) for name, output in outputs.items()}
        write_csv(out / PREDICTIONS, [{"case": name, **cls.cells(entry)} for name, entry in described.items()])
        return Written([out / PREDICTIONS], [*left_out, *failed])

    @classmethod
    def tables(cls, result: Mapping[str, Any]) -> list[ResultTable]:
        """The scores beside those of constant guessing."""
        rows = []
        for key, metric in cls.metrics.items():
            score = result[key]
            cells = [metric.text(score["value"]), metric.interval(score["ci95"]), metric.text(score["chance"])]
            rows.append([metric.heading(), *cells])
        notes = [*result.get("notes", ()), result["convention"]]
        if result.get("left_out"):
            notes.append(f"Left out, since they cannot be used: {', '.join(result['left_out'])}.")
        title = f"Results on {len(result['cases'])} cases of the split '{result['split']}'"
        return [ResultTable(title, ["metric", "value", "95 % interval", "constant guess"], rows, " ".join(notes))]

    @classmethod
    def write_csv(cls, file: Path, result: Mapping[str, Any]) -> None:
        rows = [{"case": one["case"], cls.target: one[cls.target], **cls.cells(one)} for one in result["cases"]]
        write_csv(file, rows)

    @classmethod
    def _infer(cls, predictor: Predictor, scan: Scan) -> Any:
        image = predictor.image(predictor.prepare(*scan))
        return cls.infer(predictor.network, image, predictor.crop, predictor.metadata["precision"])

    @classmethod
    def _targets(
        cls, run: Path, data: Path, source: Source, split: str, listed: Listed | None, table: Path | None
    ) -> tuple[dict[str, Any], list[str]]:
        """The target of each case of a split, from `table` or else from the run (`listed`), and notes on the table."""
        splits, notes = {case.name: case.split for case in source.cases}, list[str]()
        if table is not None:
            listed, notes = match(cls.read(table), splits, table, data, cls.target)
        elif listed is None:
            raise SourceError(
                f"{run}: these weights do not know the {cls.target} of scans; give a CSV file with {cls.option}."
            )
        splits_used = SPLITS if split == "all" else (split,)
        truth = {case: value for each in splits_used for case, value in listed.get(each, {}).items()}
        if not truth:
            raise StoreError(
                f"{data}: it has no case with a {cls.target} in the split '{split}'; name another with --split."
            )
        missing = [case for case in truth if case not in splits]
        if missing:
            raise StoreError(
                f"{data}: {missing[0]}, which the run lists, is not there; give the data it was trained on."
            )
        return truth, notes
