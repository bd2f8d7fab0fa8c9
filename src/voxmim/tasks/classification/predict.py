"""The classes of new scans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from voxmim.sources import channel_files
from voxmim.store.prepare import PreparedScan
from voxmim.tasks.classification.inference import class_probabilities
from voxmim.tasks.scans import Progress, for_each, scan_files
from voxmim.tasks.task import Predictor, write_table
from voxmim.weights.join import load_joined
from voxmim.weights.load import load_classifier

PREDICTIONS = "predictions.csv"


class Classifier(Predictor):
    """A trained classifier."""

    @classmethod
    def load(cls, *runs: Path | str) -> Classifier:
        """From a fine-tuning's run folder or a weights file, or several to average, onto a GPU if there is one."""
        return cls(*load_joined(load_classifier, runs))

    @property
    def classes(self) -> list[str]:
        """The name of each class, in the order of the probabilities."""
        return list(self.metadata["classes"])

    def probabilities(self, scan: PreparedScan) -> np.ndarray:
        """(K,) the probability of each class."""
        found = class_probabilities(self.network, self.image(scan), self.crop, self.metadata["precision"])
        return found.numpy().astype(np.float64)


def predict(
    run: Path, scans: Sequence[Path], out: Path, on_case: Progress | None = None, others: Sequence[Path] = ()
) -> list[Path]:
    """Classify scans and write ``predictions.csv``: case, predicted class, probability of each class.

    A scan that cannot be used is named and left out.

    Args:
        run: a fine-tuning's run folder or weights file.
        scans: files, or folders whose scans are all taken; a scan of several channels is one 4D file, or one file per
            channel.
        out: folder for the table, which appears complete or not at all.
        on_case: called with the scans done and their number.
        others: further runs, whose probabilities are averaged with the first one's.

    Returns:
        the table, as the only one of a list.

    Raises:
        SourceError: no scan was found, or two have the same name.
        ScanError: no scan can be used.
        WeightsError: the run holds no classifier.
    """
    classifier = Classifier.load(run, *others)
    files = channel_files(scan_files(scans), len(classifier.preparation.channels))
    found, _ = for_each(files, lambda _, images: classifier.probabilities(classifier.prepare(images)), on_case)
    rows = [[name, classifier.classes[int(row.argmax())], *rounded(row)] for name, row in found.items()]
    write_table(out / PREDICTIONS, ["case", "predicted", *probability_columns(classifier.classes)], rows)
    return [out / PREDICTIONS]


def probability_columns(classes: Sequence[str]) -> list[str]:
    """The column of each class's probability."""
    return [f"probability {name}" for name in classes]


def rounded(probabilities: Sequence[float] | np.ndarray) -> list[str]:
    """Probabilities as a table shows them."""
    return [f"{value:.6f}" for value in probabilities]
