"""Classification of scans."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from voxmim.errors import SourceError, StoreError
from voxmim.networks.build import Encoder
from voxmim.networks.classifier import Classifier
from voxmim.recipe import Recipe
from voxmim.settings import Triple
from voxmim.store.crops import Batch
from voxmim.store.format import Case, Store
from voxmim.tasks.classification.inference import class_probabilities
from voxmim.tasks.classification.labels import CLASS, Listed, counts_in_words, read_classes
from voxmim.tasks.classification.metrics import CONVENTION, METRICS, auroc, balanced_accuracy, described, summarise
from voxmim.tasks.classification.scan_task import ScanTask
from voxmim.tasks.task import ResultTable
from voxmim.text import counted
from voxmim.weights.head import load_head
from voxmim.weights.load import LoadReport, load_classifier
from voxmim.weights.start import Start


class Classification(ScanTask):
    """Classes of scans, learned from random crops; validated by the AUROC of whole scans.

    Attributes:
        classes: their names, in the order of the outputs.
    """

    name, title, product = "classification", "Classification", "classifier"
    target, option = CLASS, "--classes"
    metrics, convention = METRICS, CONVENTION
    score, score_name = "val_score", "AUROC"
    loss_name = "cross-entropy"
    columns = ["val_loss", "val_balanced_accuracy", "val_auroc", "val_score"]  # noqa: RUF012 (overrides a property)
    read, load = staticmethod(read_classes), staticmethod(load_classifier)
    counted = staticmethod(counts_in_words)

    def __init__(
        self, store: Store, train: Sequence[Case], listed: Listed, table: str, seed: int, notes: Sequence[str]
    ) -> None:
        super().__init__(store, train, listed, table, seed, notes)
        self.classes = sorted(set(listed["train"].values()))
        self._index = {case: self.classes.index(name) for cases in listed.values() for case, name in cases.items()
                       if name in self.classes}  # fmt: skip
        self._weights = class_weights([self._index[case.name] for case in train], len(self.classes))

    @staticmethod
    def strata(targets: Mapping[str, Any]) -> Mapping[str, str]:
        return targets

    @classmethod
    def list_cases(cls, store: Store, table: Path) -> tuple[Listed, list[str]]:
        """As `ScanTask.list_cases`; also raises StoreError if a class has no train case."""
        listed, notes = super().list_cases(store, table)
        known = {name for cases in listed.values() for name in cases.values()}
        lacking = sorted(known - set(listed["train"].values()))
        if lacking:
            raise StoreError(
                f"{table}: no case of the class {lacking[0]} is in the split 'train' of {store.path}; add one."
            )
        if len(known) < 2:
            raise StoreError(
                f"{table}: {store.path} holds cases of {', '.join(known)} only; add cases of another class."
            )
        return listed, notes

    def network(self, encoder: Encoder, recipe: Recipe) -> nn.Module:
        return Classifier(encoder, len(self.classes))

    def load_head(self, network: nn.Module, start: Start, report: LoadReport) -> None:
        if start.kind == self.product:
            load_head(network, start.tensors, start.metadata["classes"], self.classes, report)

    def loss(self, output: Tensor, batch: Batch, foreground_weight: float = 1.0) -> Tensor:
        truth = torch.tensor([self._index[case] for case in batch.names])
        weights = self._weights[truth].to(output.device)
        return (functional.cross_entropy(output.float(), truth.to(output.device), reduction="none") * weights).mean()

    @staticmethod
    def infer(network: nn.Module, image: Tensor, crop: Triple, precision: str) -> list[float]:
        return class_probabilities(network, image, crop, precision).tolist()

    @staticmethod
    def described(output: Sequence[float], metadata: Mapping[str, Any]) -> dict[str, Any]:
        return described(metadata["classes"], output)

    @staticmethod
    def cells(described: Mapping[str, Any]) -> dict[str, str]:
        probabilities = {f"probability {name}": f"{value:.6f}" for name, value in described["probabilities"].items()}
        return {"predicted": described["predicted"], **probabilities}

    @classmethod
    def check(cls, truth: Mapping[str, Any], metadata: Mapping[str, Any], data: Path) -> None:
        classes = metadata["classes"]
        if unknown := sorted(set(truth.values()) - set(classes)):
            raise SourceError(f"{data}: class '{unknown[0]}' is none that the classifier knows ({', '.join(classes)}).")

    @staticmethod
    def summarise(truth: Mapping[str, Any], outputs: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
        return summarise(metadata["classes"], truth, outputs)

    @classmethod
    def tables(cls, result: Mapping[str, Any]) -> list[ResultTable]:
        """The scores beside those of constant guessing, with each sensitivity, and the confusion matrix."""
        (main,) = super().tables(result)
        for name, scores in result["sensitivity"].items():
            value = METRICS["balanced_accuracy"].text(scores["value"])
            main.rows.append([f"sensitivity of {name} ({counted(scores['cases'], 'case')})", value, "–", "–"])
        confusion = [
            [name, *map(str, counts)] for name, counts in zip(result["classes"], result["confusion"], strict=True)
        ]
        header = ["class", *(f"predicted {name}" for name in result["classes"])]
        return [main, ResultTable(f"Predicted classes of the split '{result['split']}'", header, confusion)]

    def figures(self, scores: Mapping[str, Any]) -> dict[str, float]:
        """Loss, balanced accuracy and AUROC.

        ``val_loss`` is the cross-entropy with all classes weighted equally. ``val_score`` is the AUROC; a lower loss
        decides between equal AUROCs, which are frequent with few scans.
        """
        if not scores:
            return {}
        truth, predicted = np.array([self._index[name] for name in scores]), np.array(list(scores.values()))
        errors = -np.log(np.maximum(predicted[np.arange(len(truth)), truth], 1e-7))
        loss = float(np.mean([errors[truth == k].mean() for k in np.unique(truth)]))
        figures = {"val_loss": loss, "val_balanced_accuracy": float(balanced_accuracy(truth, predicted.argmax(1)))}
        if len(np.unique(truth)) > 1:
            figures["val_auroc"] = float(auroc(truth, predicted))
        # The loss is at most 16.2, and AUROCs differ by about a thousandth or more.
        return figures | {"val_score": figures.get("val_auroc", 0.0) - 1e-5 * loss}

    def metadata(self, recipe: Recipe) -> dict[str, Any]:
        return {"classes": self.classes}

    @classmethod
    def curves(cls, columns: Iterable[str]) -> dict[str, str]:
        labels = {"val_auroc": "AUROC", "val_balanced_accuracy": "balanced accuracy"}
        return {column: labels[column] for column in columns if column in labels}


def class_weights(truth: Sequence[int], classes: int) -> Tensor:
    """(classes,) loss weights, inversely proportional to the number of cases, with mean 1 over the cases."""
    counts = np.bincount(truth, minlength=classes)
    return torch.tensor(len(truth) / (classes * counts), dtype=torch.float32)
