"""Evaluation and prediction of the tasks of whole scans, each of which has a target in a table."""

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
    """What a network says of whole scans."""

    target: ClassVar[str]  # what a target is called, the column of the table
    metrics: ClassVar[Mapping[str, Metric]]  # of an evaluation
    convention: ClassVar[str]  # how it counts, printed below its tables

    @staticmethod
    @abstractmethod
    def read(table: Path, /) -> Mapping[str, Any]:
        """The target of each case; raises SourceError."""

    @staticmethod
    @abstractmethod
    def load(path: Path | str, /) -> Loaded:
        """A trained network, and its metadata; raises WeightsError."""

    @staticmethod
    @abstractmethod
    def answer(network: nn.Module, image: Tensor, crop: Triple, precision: str) -> Any:
        """What a network says of a scan (C, X, Y, Z), as plain numbers; see `scan_output`."""

    @staticmethod
    @abstractmethod
    def described(answer: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """An answer as an evaluation keeps it for a case, by the metadata of the weights."""

    @staticmethod
    @abstractmethod
    def cells(described: Mapping[str, Any]) -> dict[str, str]:
        """The columns of a CSV file that show it."""

    @staticmethod
    @abstractmethod
    def summarise(truth: Mapping[str, Any], answers: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
        """The scores, from the target and the answer of each case, ready for JSON."""

    @classmethod
    def check(cls, truth: Mapping[str, Any], metadata: Mapping[str, Any], data: Path) -> None:
        """Raise SourceError where a target is none that the network can give; any may be by default."""
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
        """Compare a network with the targets of scans, each read from its own file and prepared as `predict` does it.

        Raises:
            SourceError: the table cannot be used, or has a target that the network cannot give.
            StoreError: no case in this split, or one is not in the data.
            ScanError: no case can be used.
            WeightsError: the run holds no such network.
        """
        predictor = Predictor(*load_joined(cls.load, [run, *others]))
        source = source_in_fold(data, predictor.metadata)
        truth, notes = cls._targets(run, data, source, split, (about or {}).get("listed"), table)
        cls.check(truth, predictor.metadata, data)
        order = channel_order(predictor.preparation.channels, source.channels, data)
        scans = {case.name: Scan(case.images, order) for case in source.cases if case.name in truth}
        answers, left_out = for_each(scans, lambda _, scan: cls._answer(predictor, scan), on_case)
        return {
            "task": cls.name,
            "run": str(run),
            "data": str(data),
            "split": split,
            "left_out": left_out,
            **({} if table is None else {"table": str(table), "notes": notes}),
            "convention": cls.convention,
            **cls.summarise({name: truth[name] for name in answers}, answers, predictor.metadata),
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
        """Write ``predictions.csv``, the only file of the list returned; scans that cannot be used are left out."""
        predictor = Predictor(*load_joined(cls.load, [run, *others]))
        found, left_out = given_scans(scans, predictor.preparation.channels)
        answers, failed = for_each(found, lambda _, scan: cls._answer(predictor, scan), on_case)
        described = {name: cls.described(answer, predictor.metadata) for name, answer in answers.items()}
        write_csv(out / PREDICTIONS, [{"case": name, **cls.cells(one)} for name, one in described.items()])
        return Written([out / PREDICTIONS], [*left_out, *failed])

    @classmethod
    def tables(cls, result: Mapping[str, Any]) -> list[ResultTable]:
        """The scores beside those of constant guessing."""
        rows = []
        for key, metric in cls.metrics.items():
            value, interval, chance = (result[key][what] for what in ("value", "ci95", "chance"))
            rows.append([metric.heading(), metric.text(value), metric.interval(interval), metric.text(chance)])
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
    def _answer(cls, predictor: Predictor, scan: Scan) -> Any:
        image = predictor.image(predictor.prepare(*scan))
        return cls.answer(predictor.network, image, predictor.crop, predictor.metadata["precision"])

    @classmethod
    def _targets(
        cls, run: Path, data: Path, source: Source, split: str, listed: Listed | None, table: Path | None
    ) -> tuple[dict[str, Any], list[str]]:
        """The target of each case of a split, as the run lists them or by another table, and notes on that table."""
        splits, notes = {case.name: case.split for case in source.cases}, list[str]()
        if table is not None:
            listed, notes = match(cls.read(table), splits, table, data, cls.target)
        elif listed is None:
            raise SourceError(
                f"{run}: these weights do not know the {cls.target} of scans; give a CSV file with {cls.option}."
            )
        wanted = SPLITS if split == "all" else (split,)
        truth = {case: value for one in wanted for case, value in listed.get(one, {}).items()}
        if not truth:
            raise StoreError(
                f"{data}: it has no case with a {cls.target} in the split '{split}'; name another with --split."
            )
        gone = [case for case in truth if case not in splits]
        if gone:
            raise StoreError(f"{data}: {gone[0]}, which the run lists, is not there; give the data it was trained on.")
        return truth, notes
