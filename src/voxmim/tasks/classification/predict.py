"""The classes of new scans."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voxmim.files import write_text
from voxmim.images.intensity import window
from voxmim.images.volume import case_name
from voxmim.networks.classifier import Classifier as Network
from voxmim.store.format import Preparation
from voxmim.store.prepare import PreparedScan, prepare_scan
from voxmim.tasks.classification.inference import class_probabilities
from voxmim.tasks.segmentation.predict import scan_files
from voxmim.weights.load import load_classifier

PREDICTIONS = "predictions.csv"


@dataclass
class Classifier:
    """A trained classifier with all that it needs to tell the class of a scan from a file.

    Attributes:
        network: the weights, set to evaluation.
        preparation: what a scan must go through first.
        metadata: the rest of what the weights file tells.
    """

    network: Network
    preparation: Preparation
    metadata: dict[str, Any]

    @classmethod
    def load(cls, run: Path | str) -> Classifier:
        """From a fine-tuning's run folder or a weights file, onto a GPU if there is one."""
        network, metadata = load_classifier(run)
        if torch.cuda.is_available():
            network = network.cuda()
        return cls(network, Preparation.from_dict(metadata["preparation"]), metadata)

    @property
    def classes(self) -> list[str]:
        """The name of each class, in the order of the probabilities."""
        return list(self.metadata["classes"])

    def probabilities(self, scan: PreparedScan) -> np.ndarray:
        """(K,) the probability of each class."""
        image = window(scan.image, self.preparation.intensity, tuple(self.metadata["window"]))
        x, y, z = self.metadata["crop"]
        found = class_probabilities(self.network, torch.from_numpy(image), (x, y, z), self.metadata["precision"])
        return found.numpy().astype(np.float64)


def predict(
    run: Path, scans: Sequence[Path], out: Path, on_case: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Tell the class of scans and write ``predictions.csv``: case, predicted class, probability of each class.

    Args:
        run: a fine-tuning's run folder or weights file.
        scans: files, or folders whose scans are all taken; a scan of several channels is one 4D file.
        out: folder for the table, which appears whole or not at all.
        on_case: called with the scans done and their number.

    Returns:
        the table, as the only one of a list.

    Raises:
        SourceError: no scan was found, or two have the same name.
        ScanError: a scan cannot be used.
        WeightsError: the run holds no classifier.
    """
    classifier = Classifier.load(run)
    files = scan_files(scans)
    rows: list[list[object]] = []
    for path in files:
        if on_case is not None:
            on_case(len(rows), len(files))
        found = classifier.probabilities(prepare_scan((path,), classifier.preparation))
        rows.append([case_name(path), classifier.classes[int(found.argmax())], *rounded(found)])
    if on_case is not None:
        on_case(len(files), len(files))
    write_table(out / PREDICTIONS, ["case", "predicted", *probability_columns(classifier.classes)], rows)
    return [out / PREDICTIONS]


def probability_columns(classes: Sequence[str]) -> list[str]:
    """The column of each class's probability."""
    return [f"probability {name}" for name in classes]


def rounded(probabilities: Sequence[float] | np.ndarray) -> list[str]:
    """Probabilities as a table shows them."""
    return [f"{value:.6f}" for value in probabilities]


def write_table(file: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a CSV file in one stroke."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(file, text.getvalue())
