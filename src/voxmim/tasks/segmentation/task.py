"""Segmentation: the labels or regions of voxels."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import Tensor, nn

from voxmim.errors import StoreError
from voxmim.images.components import remove_small_components
from voxmim.networks.build import Encoder, build_segmentor
from voxmim.recipe import Recipe
from voxmim.store.crops import Batch
from voxmim.store.format import Case, Store
from voxmim.store.sides import find_sides
from voxmim.tasks.cases import labelled_train_cases, resumed_cases
from voxmim.tasks.metrics import MAIN
from voxmim.tasks.segmentation import evaluate as evaluation
from voxmim.tasks.segmentation.inference import predict_slabs, prepared_label_map, window_count
from voxmim.tasks.segmentation.loss import compare_known, deep_loss, loss_name, make_criterion
from voxmim.tasks.segmentation.predict import CLEANED, predict
from voxmim.tasks.segmentation.prior import PRIOR, PositionPrior
from voxmim.tasks.segmentation.scores import score_case, without
from voxmim.tasks.segmentation.structures import Structures
from voxmim.tasks.task import Task
from voxmim.weights.head import load_head
from voxmim.weights.load import LoadReport
from voxmim.weights.start import Start

MAX_VALIDATION = 16  # cases
DICE = "dice"  # of the label map as it is predicted; the other kind of score is `CLEANED`


class Segmentation(Task):
    """Labels or regions; validated by the Dice of whole scans in the store's spacing."""

    name, title, product = "segmentation", "Fine-tuning", "segmentor"
    score, score_name, labelled = "val_dice", "mean Dice", True

    def __init__(self, store: Store, train: Sequence[Case], known: Sequence[str] = ()) -> None:
        self._known = list(known)
        self.structures = Structures.of_store(store, train, known)
        notes = []
        if unseen := self.structures.unseen:
            notes.append(f"No training case holds these labels, so they are not learned: {', '.join(unseen.values())}.")
        lacking = [case.name for case in store.in_split("train", "val") if case.label and case.missing]
        if lacking:
            notes.append(f"left out, since they lack a channel: {', '.join(lacking)}")
        super().__init__(store, train, store.labelled("val")[:MAX_VALIDATION], notes)
        self.sides = find_sides(self.structures.labels, self.structures.regions)
        self._criterion = make_criterion(self.structures)
        self._partly = {case.name: case.annotated for case in store.cases.values() if case.annotated is not None}
        if self.structures.ignore is not None:
            self.notes.append("Voxels of the label 'ignore' are neither learned nor scored.")
        if partly := [case.name for case in [*self.train, *self.val] if case.name in self._partly]:
            cases = ", ".join(partly)
            self.notes.append(
                f"Only some labels were annotated in these cases, the others are not counted there: {cases}."
            )

    @classmethod
    def choose(
        cls, store: Store, labels: str | None, seed: int, table: Path | None, start: Start | None = None
    ) -> Self:
        known: list[str] = []
        if start is not None and start.kind == cls.product:
            known = list(Structures.from_metadata(start.metadata).labels.values())
        return cls(store, labelled_train_cases(store, labels, seed), known)

    @classmethod
    def resume(cls, store: Store, about: Mapping[str, Any], seed: int) -> Self:
        return cls(store, resumed_cases(store, about["cases"]), about.get("known", ()))

    @property
    def columns(self) -> list[str]:
        parts = [f"{self.score} {name}" for name in self.structures.parts]
        return [self.score, *parts, *(case_column(case.name) for case in self.val)]

    @property
    def loss_name(self) -> str:
        return loss_name(self.structures)

    def network(self, encoder: Encoder, recipe: Recipe) -> nn.Module:
        return build_segmentor(encoder, recipe.unetr, self.structures.outputs)

    def load_head(self, network: nn.Module, start: Start, report: LoadReport) -> None:
        """Load decoder and head of a segmentor; the head does not fit between labels and regions."""
        if start.kind == self.product:
            old = Structures.from_metadata(start.metadata)
            same = bool(old.regions) == bool(self.structures.regions)
            load_head(network, start.tensors, old.names if same else [], self.structures.names, report)

    def loss(self, output: Tensor | tuple[Tensor, ...], batch: Batch, foreground_weight: float = 1.0) -> Tensor:
        annotated = [self._partly.get(name) for name in batch.names]
        levels, label, known = compare_known(self.structures, levels_of(output), batch.label, annotated)
        return deep_loss(self._criterion, levels, label, foreground_weight, known)

    def self_training_loss(
        self, output: Any, teacher: Any, batch: Batch, threshold: float, foreground_weight: float = 1.0
    ) -> Tensor:
        label, known = self.structures.confident(levels_of(teacher)[0], threshold)
        return deep_loss(self._criterion, levels_of(output), label, foreground_weight, known)

    def windows(self, case: Case, recipe: Recipe) -> int:
        assert recipe.crop is not None
        return window_count(case.shape, recipe.crop, 0.0)

    def score_case(self, network: nn.Module, case: Case, recipe: Recipe) -> dict[str, dict[str, float]]:
        """Dice of each counted structure, as predicted and without small components, from windows without overlap.

        Overlapping windows would take a third of a short training's time and select the same steps.
        """
        assert recipe.crop is not None
        image, reference = self.image(case, recipe), self.store.label_map(case.name)
        slabs = predict_slabs(network, image, recipe.crop, 0.0, recipe.precision, self.structures.activate)
        label_map = prepared_label_map(slabs, case.shape, self.structures)
        cleaned = label_map if self.structures.regions else remove_small_components(label_map, self.structures.labels)
        return {name: self.counted(found, reference, case) for name, found in ((DICE, label_map), (CLEANED, cleaned))}

    def counted(self, predicted: np.ndarray, reference: np.ndarray, case: Case) -> dict[str, float]:
        """Dice of each annotated structure that is in at least one of two label maps (X, Y, Z)."""
        unknown, parts = reference == self.structures.ignore, self.structures.parts_of(case.annotated)
        scores = score_case(without(predicted, unknown), without(reference, unknown), parts, (1, 1, 1), metrics=[MAIN])
        return {name: dice for name, score in scores.items() if (dice := score[MAIN]) is not None}

    def figures(self, scores: Mapping[str, Any]) -> dict[str, float]:
        """Mean Dice over cases, per structure and per case; structures in neither label map are not counted."""
        counted = {name: list(score[DICE].values()) for name, score in scores.items() if score[DICE]}
        per_case = {case_column(name): float(np.mean(dice)) for name, dice in counted.items()}
        figures = {self.score: float(np.mean(list(per_case.values()))) if per_case else 0.0} | per_case
        for part in self.structures.parts:
            if (mean := _mean(scores, DICE, part)) is not None:
                figures[f"{self.score} {part}"] = mean
        return figures

    def decided(self, scores: Mapping[str, Any]) -> dict[str, Any]:
        """The labels whose small components are removed: those whose mean Dice over the cases is higher without."""
        means = {part: [_mean(scores, kind, part) for kind in (DICE, CLEANED)] for part in self.structures.parts}
        return {CLEANED: [part for part, (dice, cleaned) in means.items() if (cleaned or 0) > (dice or 0)]}

    def prepare(self, network: nn.Module, crops: Iterable[Tensor], recipe: Recipe, folder: Path) -> None:
        """Fit the position-only prior."""
        if not (folder / PRIOR).is_file():
            PositionPrior.fit(self._label_maps(), self.structures.labels).save(folder / PRIOR)

    def _label_maps(self) -> Iterable[np.ndarray]:
        fully_annotated = [case for case in self.train if case.name not in self._partly]
        for case in fully_annotated or self.train:
            with suppress(StoreError):  # reported by the training
                yield self.store.label_map(case.name)

    def about(self) -> dict[str, Any]:
        return {"cases": [case.name for case in self.train], **({"known": self._known} if self._known else {})}

    def metadata(self, recipe: Recipe) -> dict[str, Any]:
        return {**self.structures.metadata(), "unetr": asdict(recipe.unetr), "overlap": recipe.overlap}

    @classmethod
    def curves(cls, columns: Iterable[str]) -> dict[str, str]:
        return {
            column: column.removeprefix(cls.score).strip() or "mean"
            for column in columns
            if column.startswith(cls.score)
        }

    @classmethod
    def facts(cls, about: Mapping[str, Any]) -> list[tuple[str, str]]:
        cleaned = about.get(CLEANED)
        return [("small components removed", ", ".join(cleaned))] if cleaned else []

    evaluate = staticmethod(evaluation.evaluate)
    predict = staticmethod(predict)
    tables = staticmethod(evaluation.result_tables)
    write_csv = staticmethod(evaluation.write_csv)


def levels_of(output: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    """Float32 logits of each level of a segmentor's output, the finest first; a single one without deep supervision."""
    return [logits.float() for logits in ((output,) if isinstance(output, Tensor) else output)]


def _mean(scores: Mapping[str, Any], kind: str, part: str) -> float | None:
    """Mean Dice of a structure over the cases in which it is counted; None if there is none."""
    counted = [score[kind][part] for score in scores.values() if part in score[kind]]
    return float(np.mean(counted)) if counted else None


def prior_dice(folder: Path, about: Mapping[str, Any], store: Store) -> list[float]:
    """Mean Dice of a run's position-only prior on each counted validation case."""
    task, prior = Segmentation.resume(store, about, 0), PositionPrior.load(folder / PRIOR)
    found = [task.counted(prior.predict(case.shape), store.label_map(case.name), case) for case in task.val]
    return [float(np.mean(list(dice.values()))) for dice in found if dice]


def case_column(name: str) -> str:
    """The column of a validation case's mean Dice in metrics.csv."""
    return f"case {name}"
