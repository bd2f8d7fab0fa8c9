"""Fine-tuning a classifier: the class of a scan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from voxmim.errors import RunError, StoreError
from voxmim.networks.build import Encoder
from voxmim.networks.classifier import Classifier
from voxmim.recipe import Recipe
from voxmim.store.crops import Batch
from voxmim.store.format import Case, Store
from voxmim.tasks.cases import label_count, resumed_cases
from voxmim.tasks.classification import evaluate as evaluation
from voxmim.tasks.classification.inference import class_probabilities, windows
from voxmim.tasks.classification.labels import Listed, counts_in_words, draw_splits, in_turn, match, read_classes
from voxmim.tasks.classification.metrics import auroc, balanced_accuracy
from voxmim.tasks.classification.predict import predict
from voxmim.tasks.scans import Progress
from voxmim.tasks.task import Task

MAX_VALIDATION = 64  # cases; with fewer, an AUROC is coarse
MAX_SCALED = 64  # crops, each of another scan, that the scale of a probe's features is fitted to


class Classification(Task):
    """Classes of scans, learned from random crops; validated by the AUROC of whole scans.

    Attributes:
        listed: the class of each case by split.
        table: the CSV file that they were read from.
        classes: their names, in the order of the outputs.
    """

    name, title, product = "classification", "Classification", "classifier"
    score, score_name = "val_score", "AUROC"
    loss_name = "cross-entropy"
    columns = ["val_loss", "val_balanced_accuracy", "val_auroc", "val_score"]  # noqa: RUF012 (overrides a property)

    def __init__(
        self, store: Store, train: Sequence[Case], listed: Listed, table: str, seed: int, notes: Sequence[str]
    ) -> None:
        self.listed, self.table = listed, table
        self.classes = sorted(set(listed["train"].values()))
        held = listed.get("val", {})
        val = [store.cases[name] for name in in_turn(held, seed)[:MAX_VALIDATION]]
        super().__init__(store, train, val, notes)
        self._index = {case: self.classes.index(name) for cases in listed.values() for case, name in cases.items()
                       if name in self.classes}  # fmt: skip
        self._weights = class_weights([self._index[case.name] for case in train], len(self.classes))

    @classmethod
    def choose(cls, store: Store, labels: str | None, seed: int, table: Path | None) -> Classification:
        """The task of a new run: all train cases with a class, or `labels` of them, with every class among them."""
        if table is None:
            raise RunError(
                f"{store.path}: a classification needs the class of each scan; give a CSV file with --classes."
            )
        listed, notes = list_cases(store, table)
        names = train_names(store, listed, labels, seed)
        return cls(store, [store.cases[name] for name in names], listed, str(table.resolve()), seed, notes)

    @classmethod
    def resume(cls, store: Store, about: Mapping[str, Any], seed: int) -> Classification:
        train = resumed_cases(store, about["cases"])
        return cls(store, train, about["listed"], about["classes"], seed, about.get("notes", about.get("told", ())))

    def network(self, encoder: Encoder, recipe: Recipe) -> nn.Module:
        return Classifier(encoder, len(self.classes))

    def prepare(self, network: nn.Module, crops: Iterable[Tensor], recipe: Recipe, folder: Path) -> None:
        """Fit the scale of the features that a linear probe learns from."""
        if recipe.finetune.freeze == 1:
            assert isinstance(network, Classifier)
            network.eval().fit_scale(islice(crops, min(MAX_SCALED, len(self.train))))

    def loss(self, output: Tensor, batch: Batch, foreground_weight: float = 1.0) -> Tensor:
        truth = torch.tensor([self._index[case] for case in batch.names])
        weights = self._weights[truth].to(output.device)
        return (functional.cross_entropy(output.float(), truth.to(output.device), reduction="none") * weights).mean()

    def windows(self, case: Case, recipe: Recipe) -> int:
        assert recipe.crop is not None
        return len(windows(case.shape, recipe.crop))

    def score_case(self, network: nn.Module, case: Case, recipe: Recipe) -> list[float]:
        """The probability of each class."""
        assert recipe.crop is not None
        found = class_probabilities(network, self.image(case, recipe), recipe.crop, recipe.precision)
        return [float(value) for value in found]

    def figures(self, scores: Mapping[str, Any]) -> dict[str, float]:
        """How well scans are classified.

        ``val_loss`` is the cross-entropy, each class weighing the same. ``val_score`` is the AUROC, and among steps of
        the same AUROC, which are many where scans are few, the one of lower loss is better.
        """
        if not scores:
            return {}
        truth, given = np.array([self._index[name] for name in scores]), np.array(list(scores.values()))
        errors = -np.log(np.maximum(given[np.arange(len(truth)), truth], 1e-7))
        loss = float(np.mean([errors[truth == k].mean() for k in np.unique(truth)]))
        figures = {"val_loss": loss, "val_balanced_accuracy": float(balanced_accuracy(truth, given.argmax(1)))}
        if len(np.unique(truth)) > 1:
            figures["val_auroc"] = float(auroc(truth, given))
        # A loss is at most 16.2 here, and the smallest step of the AUROC about a thousandth.
        return figures | {"val_score": figures.get("val_auroc", 0.0) - 1e-5 * loss}

    def about(self) -> dict[str, Any]:
        cases = [case.name for case in self.train]
        return {"task": self.name, "classes": self.table, "cases": cases, "listed": self.listed, "notes": self.notes}

    def metadata(self, recipe: Recipe) -> dict[str, Any]:
        return {"classes": self.classes}

    @classmethod
    def curves(cls, columns: Iterable[str]) -> dict[str, str]:
        labels = {"val_auroc": "AUROC", "val_balanced_accuracy": "balanced accuracy"}
        return {column: labels[column] for column in columns if column in labels}

    @classmethod
    def facts(cls, about: Mapping[str, Any]) -> list[tuple[str, str]]:
        listed, notes = about["listed"], about.get("notes", about.get("told", ()))
        counts = [(f"cases in {split}", counts_in_words(cases.values())) for split, cases in listed.items() if cases]
        return [("classes", about["classes"]), *counts, *([("notes", " ".join(notes))] if notes else [])]

    @staticmethod
    def evaluate(
        run: Path,
        data: Path,
        split: str,
        tolerance_mm: float,
        about: Mapping[str, Any],
        table: Path | None,
        on_case: Progress | None,
    ) -> dict[str, Any]:
        return evaluation.evaluate(run, data, split, about.get("listed"), table, on_case)

    @staticmethod
    def predict(
        run: Path,
        scans: Sequence[Path],
        out: Path,
        probabilities: bool,
        on_case: Progress | None,
        label_format: str = "nifti",
    ) -> list[Path]:
        return predict(run, scans, out, on_case)

    tables = staticmethod(evaluation.result_tables)
    write_csv = staticmethod(evaluation.write_csv)


def list_cases(store: Store, table: Path) -> tuple[Listed, list[str]]:
    """The store's cases that have a class, by the store's splits, or by drawn ones where it has none for them.

    Returns:
        the class of each case by split (``train``, ``val``, ``test``), and sentences on cases that take no part and on
        a drawn split.

    Raises:
        SourceError: the table cannot be used.
        StoreError: a class has no train case.
    """
    complete = {case.name: case.split for case in store.cases.values() if not case.missing}
    listed, notes = match(read_classes(table), complete, table, store.path)
    spare = listed.pop("unlabelled", {})
    if listed and spare:
        notes.append(f"{len(spare)} listed cases are in the split 'unlabelled' of {store.path}: left out.")
    elif spare:
        drawn = draw_splits(spare, store.seed)
        for split in ("train", "val", "test"):
            listed[split] = {case: name for case, name in spare.items() if drawn[case] == split}
        notes.append(
            f"{store.path} has no split of these cases, so one was drawn: {len(listed['train'])} to train, "
            f"{len(listed['val'])} to validate, {len(listed['test'])} to test; a pre-training on this store has seen "
            "them all, though no class."
        )
    known = {name for cases in listed.values() for name in cases.values()}
    lacking = sorted(known - set(listed.get("train", {}).values()))
    if lacking:
        raise StoreError(
            f"{table}: no case of the class {lacking[0]} is in the split 'train' of {store.path}; add one."
        )
    if len(known) < 2:
        raise StoreError(f"{table}: {store.path} holds cases of {', '.join(known)} only; add cases of another class.")
    return listed, notes


def train_names(store: Store, listed: Listed, labels: str | None, seed: int) -> list[str]:
    """The train cases to learn from, drawn by seed with every class among them; a smaller draw is a part of a larger.

    Raises:
        StoreError: `labels` is neither a fraction nor a number that fits.
    """
    cases = listed["train"]
    if labels is None:
        return list(cases)
    chosen = in_turn(cases, seed)[: label_count(labels, len(cases), store, minimum=len(set(cases.values())))]
    return [case for case in cases if case in chosen]


def class_weights(truth: Sequence[int], classes: int) -> Tensor:
    """(classes,) the weight of each class in the loss: inverse to its number of cases, 1 on average over cases."""
    counts = np.bincount(truth, minlength=classes)
    return torch.tensor(len(truth) / (classes * counts), dtype=torch.float32)
