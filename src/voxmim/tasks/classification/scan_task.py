"""Fine-tuning for the tasks that have one target per scan."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from voxmim.errors import RunError, StoreError
from voxmim.networks.classifier import Classifier
from voxmim.recipe import Recipe
from voxmim.store.format import Case, Store
from voxmim.tasks.cases import label_count, resumed_cases
from voxmim.tasks.classification.inference import windows
from voxmim.tasks.classification.labels import Listed, draw_splits, match, stratified_order
from voxmim.tasks.classification.scan_results import ScanResults
from voxmim.weights.start import Start

MAX_VALIDATION = 64  # cases; with fewer, an AUROC is coarse
MAX_SCALED = 64  # crops of different scans that the scale of a probe's features is fitted to


class ScanTask(ScanResults):
    """One target per scan, learned from random crops.

    Attributes:
        listed: the target of each case by split.
        table: the CSV file that the targets were read from.
    """

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
            notes.append(f"{len(unsplit)} listed cases are in the split 'unlabelled' of {store.path}: left out.")
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
