"""What fine-tuning for the tasks of whole scans has in common: a target for each scan, read from a table."""

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
from voxmim.tasks.classification.labels import Listed, draw_splits, in_turn, match
from voxmim.tasks.classification.scan_results import ScanResults
from voxmim.weights.start import Start

MAX_VALIDATION = 64  # cases; with fewer, an AUROC is coarse
MAX_SCALED = 64  # crops, each of another scan, that the scale of a probe's features is fitted to


class ScanTask(ScanResults):
    """A target for each scan, learned from random crops.

    Attributes:
        listed: the target of each case by split.
        table: the CSV file that they were read from.
    """

    def __init__(
        self, store: Store, train: Sequence[Case], listed: Listed, table: str, seed: int, notes: Sequence[str]
    ) -> None:
        self.listed, self.table = listed, table
        val = [store.cases[name] for name in in_turn(self.strata(listed.get("val", {})), seed)[:MAX_VALIDATION]]
        super().__init__(store, train, val, notes)

    @staticmethod
    def strata(targets: Mapping[str, Any]) -> Mapping[str, str]:
        """What a draw of cases has some of each of, by case: all the same."""
        return dict.fromkeys(targets, "")

    @staticmethod
    def counted(targets: Collection[Any], /) -> str:
        """Targets of one split in words, for the page: how many there are."""
        return str(len(targets))

    @classmethod
    def list_cases(cls, store: Store, table: Path) -> tuple[Listed, list[str]]:
        """The store's cases that have a target, by the store's splits, or by drawn ones where it has none for them.

        Returns:
            the target of each case by split (``train``, ``val``, ``test``), and sentences on cases that take no part
            and on a drawn split.

        Raises:
            SourceError: the table cannot be used.
            StoreError: no case is in the split train.
        """
        complete = {case.name: case.split for case in store.cases.values() if not case.missing}
        listed, notes = match(cls.read(table), complete, table, store.path, cls.target)
        spare = listed.pop("unlabelled", {})
        if listed and spare:
            notes.append(f"{len(spare)} listed cases are in the split 'unlabelled' of {store.path}: left out.")
        elif spare:
            drawn = draw_splits(cls.strata(spare), store.seed)
            for split in ("train", "val", "test"):
                listed[split] = {case: target for case, target in spare.items() if drawn[case] == split}
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
        """The task of a new run: all train cases with a target, or `labels` of them, with every stratum among them."""
        if table is None:
            raise RunError(
                f"{store.path}: a {cls.name} needs the {cls.target} of each scan; give a CSV file with {cls.option}."
            )
        listed, notes = cls.list_cases(store, table)
        names = train_names(store, cls.strata(listed["train"]), labels, seed)
        return cls(store, [store.cases[name] for name in names], listed, str(table.resolve()), seed, notes)

    @classmethod
    def resume(cls, store: Store, about: Mapping[str, Any], seed: int) -> Self:
        train, notes = resumed_cases(store, about["cases"]), about.get("notes", about.get("told", ()))
        return cls(store, train, about["listed"], about[cls.option.strip("-")], seed, notes)

    def prepare(self, network: nn.Module, crops: Iterable[Tensor], recipe: Recipe, folder: Path) -> None:
        """Fit the scale of the features that a linear probe learns from."""
        if recipe.finetune.freeze == 1:
            assert isinstance(network, Classifier)
            network.eval().fit_scale(islice(crops, min(MAX_SCALED, len(self.train))))

    def windows(self, case: Case, recipe: Recipe) -> int:
        assert recipe.crop is not None
        return len(windows(case.shape, recipe.crop))

    def score_case(self, network: nn.Module, case: Case, recipe: Recipe) -> Any:
        assert recipe.crop is not None
        return self.answer(network, self.image(case, recipe), recipe.crop, recipe.precision)

    @classmethod
    def facts(cls, about: Mapping[str, Any]) -> list[tuple[str, str]]:
        name, notes = cls.option.strip("-"), about.get("notes", about.get("told", ()))
        counts = [
            (f"cases in {split}", cls.counted(cases.values())) for split, cases in about["listed"].items() if cases
        ]
        return [(name, about[name]), *counts, *([("notes", " ".join(notes))] if notes else [])]

    def about(self) -> dict[str, Any]:
        cases = [case.name for case in self.train]
        table = {self.option.strip("-"): self.table}
        return {"task": self.name, **table, "cases": cases, "listed": self.listed, "notes": self.notes}


def train_names(store: Store, strata: Mapping[str, str], labels: str | None, seed: int) -> list[str]:
    """The train cases to learn from, drawn by seed with every stratum among them; a smaller draw is part of a larger.

    Raises:
        StoreError: `labels` is neither a fraction nor a number that fits.
    """
    if labels is None:
        return list(strata)
    chosen = in_turn(strata, seed)[: label_count(labels, len(strata), store, minimum=len(set(strata.values())))]
    return [case for case in strata if case in chosen]
