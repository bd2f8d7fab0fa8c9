"""Regression: one number per scan."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from voxmim.errors import SourceError
from voxmim.networks.build import Encoder
from voxmim.networks.classifier import Regressor
from voxmim.recipe import Recipe
from voxmim.settings import Triple
from voxmim.store.crops import Batch
from voxmim.store.format import Case, Store
from voxmim.tasks.classification.inference import scan_output
from voxmim.tasks.classification.labels import Listed, read_column
from voxmim.tasks.classification.scan_task import ScanTask
from voxmim.tasks.regression.metrics import CONVENTION, METRICS, mean_absolute_error, r_squared, summarise
from voxmim.weights.head import load_head
from voxmim.weights.load import LoadReport, load_regressor
from voxmim.weights.start import Start

VALUE = "value"  # the column of the table


def read_values(file: Path) -> dict[str, float]:
    """Read the number of each case from the columns ``case`` and ``value`` of a CSV file.

    Raises:
        SourceError: as `read_column`, one is not a finite number, or all are the same.
    """
    values: dict[str, float] = {}
    for case, text in read_column(file, VALUE).items():
        try:
            values[case] = float(text)
        except ValueError:
            values[case] = float("nan")
        if not np.isfinite(values[case]):
            raise SourceError(f"{file}: the value of case '{case}' is '{text}', which is no number; correct it.")
    if len(set(values.values())) < 2:
        raise SourceError(f"{file}: at least two different values are needed; add cases.")
    return values


class Regression(ScanTask):
    """A number per scan, learned from random crops in units of its std; validated on whole scans.

    Attributes:
        mean: of the training cases' values.
        std: of the training cases' values.
        deviation: their mean absolute deviation from the mean, the MAE of a constant guess.
    """

    name, title, product = "regression", "Regression", "regressor"
    target, option = VALUE, "--values"
    metrics, convention = METRICS, CONVENTION
    score, score_name = "val_skill", "MAE skill score"
    loss_name = "Huber loss"
    columns = ["val_loss", "val_mae", "val_r2", "val_skill"]  # noqa: RUF012 (overrides a property)
    read, load = staticmethod(read_values), staticmethod(load_regressor)

    def __init__(
        self, store: Store, train: Sequence[Case], listed: Listed, table: str, seed: int, notes: Sequence[str]
    ) -> None:
        super().__init__(store, train, listed, table, seed, notes)
        self._value = {case: value for cases in listed.values() for case, value in cases.items()}
        values = np.array([self._value[case.name] for case in train])
        self.mean, self.std = float(values.mean()), float(values.std()) or 1.0
        self.deviation = float(np.abs(values - self.mean).mean()) or 1.0

    def network(self, encoder: Encoder, recipe: Recipe) -> nn.Module:
        return Regressor(encoder, self.mean, self.std)

    def load_head(self, network: nn.Module, start: Start, report: LoadReport) -> None:
        if start.kind == self.product:
            load_head(network, start.tensors, [self.target], [self.target], report)
            report.outputs = ""  # there is only one

    def loss(self, output: Tensor, batch: Batch, foreground_weight: float = 1.0) -> Tensor:
        truth = torch.tensor([self._value[case] for case in batch.names], device=output.device)
        return functional.huber_loss(output[:, 0].float() / self.std, truth.float() / self.std)

    @staticmethod
    def infer(network: nn.Module, image: Tensor, crop: Triple, precision: str) -> float:
        return scan_output(network, image, crop, precision).item()

    @staticmethod
    def described(output: float, metadata: Mapping[str, Any]) -> dict[str, Any]:
        return {"predicted": output}

    @staticmethod
    def cells(described: Mapping[str, Any]) -> dict[str, str]:
        return {"predicted": f"{described['predicted']:.6g}"}

    @staticmethod
    def summarise(truth: Mapping[str, Any], outputs: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
        return summarise(truth, outputs, metadata["guess"])

    def figures(self, scores: Mapping[str, Any]) -> dict[str, float]:
        """Loss, MAE, R², and the skill score: 1 - MAE / MAE of a constant guess."""
        if not scores:
            return {}
        truth, predicted = np.array([self._value[name] for name in scores]), np.array(list(scores.values()))
        loss = functional.huber_loss(torch.from_numpy(predicted / self.std), torch.from_numpy(truth / self.std))
        mae, r2 = float(mean_absolute_error(truth, predicted)), float(r_squared(truth, predicted))
        figures = {"val_loss": float(loss), "val_mae": mae, "val_skill": 1 - mae / self.deviation}
        return figures if np.isnan(r2) else figures | {"val_r2": r2}

    def metadata(self, recipe: Recipe) -> dict[str, Any]:
        return {"guess": self.mean}

    @classmethod
    def curves(cls, columns: Iterable[str]) -> dict[str, str]:
        return {column: cls.score_name for column in columns if column == cls.score}
