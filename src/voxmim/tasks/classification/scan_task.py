"""The base class of tasks that have one target per scan: fine-tuning, evaluation and prediction."""

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from voxmim.errors import RunError, SourceError, StoreError
from voxmim.files import write_csv
from voxmim.networks.classifier import Classifier
from voxmim.recipe import Recipe
from voxmim.settings import Triple
from voxmim.sources import Source
from voxmim.sources.source import SPLITS
from voxmim.store.format import Case, Store
from voxmim.tasks.cases import label_count, resumed_cases
from voxmim.tasks.classification.inference import windows
from voxmim.tasks.classification.labels import Listed, draw_splits, match, stratified_order
from voxmim.tasks.given import Scan, Written, given_scans
from voxmim.tasks.metrics import Metric
from voxmim.tasks.scans import Progress, channel_order, for_each, source_in_fold
from voxmim.tasks.task import Predictor, ResultTable, Task
from voxmim.text import counted
from voxmim.weights.join import Loaded, load_joined
from voxmim.weights.start import Start

PREDICTIONS = "predictions.csv"
MAX_VALIDATION = 64  # cases; with fewer, an AUROC is coarse
MAX_SCALED = 64  # crops of different scans that the scale of a probe's features is fitted to


class ScanTask(Task):
    """One target per scan, listed in a table and learned from random crops.

    Attributes:
        listed: the target of each case by split.
        table: the CSV file that the targets were read from.
    """

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

    def __init__(
        self, store: Store, train: Sequence[Case], listed: Listed, table: str, seed: int, notes: Sequence[str]
    ) -> None:
        self.listed, self.table = listed, table
        val = stratified_order(self.strata(listed.get("val", {})), seed)[:MAX_VALIDATION]
        super().__init__(store, train, [store.cases[name] for name in val], notes)

    @staticmethod
    def strata(targets: Mapping[str, Any]) -> Mapping[str, str]:
        """The stratum of each case, for stratified sampling; a single one by default."""
        return dict.fromkeys(targets, "")

    @staticmethod
    def counted(targets: Collection[Any], /) -> str:
        """The number of targets of a split, for the page."""
        return str(len(targets))

    @classmethod
    def list_cases(cls, store: Store, table: Path) -> tuple[Listed, list[str]]:
        """The store's cases that have a target, by split; they are split at random if the store does not split them.

        Returns:
            the target of each case by split (``train``, ``val``, ``test``), and sentences on cases that are left out
            and on a random split.

        Raises:
            SourceError: the table cannot be used.
            StoreError: no case is in the split train.
        """
        complete = {case.name: case.split for case in store.cases.values() if not case.missing}
        listed, notes = match(cls.read(table), complete, table, store.path, cls.target)
        unsplit = listed.pop("unlabelled", {})
        if listed and unsplit:
            notes.append(f"{counted(len(unsplit), 'listed case')} in the split 'unlabelled' of {store.path}: left out.")
        elif unsplit:
            drawn = draw_splits(cls.strata(unsplit), store.seed)
            for split in ("train", "val", "test"):
                listed[split] = {case: target for case, target in unsplit.items() if drawn[case] == split}
            notes.append(
                f"{store.path} has no split of these cases, so one was drawn: {len(listed['train'])} to train, "
                f"{len(listed['val'])} to validate, {len(listed['test'])} to test; a pre-training on this store has "
                f"seen them all, though no {cls.target}."
            )
        if not listed.get("train"):
            raise StoreError(f"{table}: none of its cases is in the split 'train' of {store.path}; add some.")
        return listed, notes

    @classmethod
    def choose(
        cls, store: Store, labels: str | None, seed: int, table: Path | None, start: Start | None = None
    ) -> Self:
        """The task of a new run on all train cases that have a target, or on a stratified sample of them (`labels`)."""
        if table is None:
            raise RunError(
                f"{store.path}: a {cls.name} needs the {cls.target} of each scan; give a CSV file with {cls.option}."
            )
        listed, notes = cls.list_cases(store, table)
        names = train_names(store, cls.strata(listed["train"]), labels, seed)
        return cls(store, [store.cases[name] for name in names], listed, str(table.resolve()), seed, notes)

    @classmethod
    def resume(cls, store: Store, about: Mapping[str, Any], seed: int) -> Self:
        train, table = resumed_cases(store, about["cases"]), about[cls.option.strip("-")]
        return cls(store, train, about["listed"], table, seed, about.get("notes", ()))

    def prepare(self, network: nn.Module, crops: Iterable[Tensor], recipe: Recipe, folder: Path) -> None:
        """Fit the feature scale of a linear probe."""
        if recipe.finetune.freeze == 1:
            assert isinstance(network, Classifier)
            network.eval().fit_scale(islice(crops, min(MAX_SCALED, len(self.train))))

    def windows(self, case: Case, recipe: Recipe) -> int:
        assert recipe.crop is not None
        return len(windows(case.shape, recipe.crop))

    def score_case(self, network: nn.Module, case: Case, recipe: Recipe) -> Any:
        assert recipe.crop is not None
        return self.infer(network, self.image(case, recipe), recipe.crop, recipe.precision)

    @classmethod
    def facts(cls, about: Mapping[str, Any]) -> list[tuple[str, str]]:
        option = cls.option.strip("-")
        facts = [(option, about[option])]
        facts += [
            (f"cases in {split}", cls.counted(cases.values())) for split, cases in about["listed"].items() if cases
        ]
        if notes := about.get("notes"):
            facts.append(("notes", " ".join(notes)))
        return facts

    def about(self) -> dict[str, Any]:
        cases = [case.name for case in self.train]
        table = {self.option.strip("-"): self.table}
        return {"task": self.name, **table, "cases": cases, "listed": self.listed, "notes": self.notes}

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
        all_components: bool = False,
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
        all_components: bool = False,
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
        title = f"Results on {counted(len(result['cases']), 'case')} of the split '{result['split']}'"
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


def train_names(store: Store, strata: Mapping[str, str], labels: str | None, seed: int) -> list[str]:
    """A stratified random sample of the train cases; with the same seed, a smaller sample is a part of a larger one.

    Raises:
        StoreError: `labels` is not valid; see `label_count`.
    """
    if labels is None:
        return list(strata)
    count = label_count(labels, len(strata), store, minimum=len(set(strata.values())))
    chosen = stratified_order(strata, seed)[:count]
    return [case for case in strata if case in chosen]
