"""The interface of a task: the parts of training, evaluation and report that depend on it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from voxmim.console import warn
from voxmim.doctor.facts import measure
from voxmim.doctor.modality import rule_misfit
from voxmim.doctor.reading import read_channels
from voxmim.errors import RunError
from voxmim.images.intensity import window
from voxmim.networks.build import Encoder
from voxmim.recipe import Recipe
from voxmim.store.crops import Batch
from voxmim.store.format import Case, Preparation, Store
from voxmim.store.prepare import PreparedScan, prepare_volume
from voxmim.store.sides import Sides
from voxmim.tasks.given import Written
from voxmim.tasks.scans import Progress
from voxmim.weights.load import LoadReport
from voxmim.weights.start import Start


class ResultTable(NamedTuple):
    """A table of an evaluation, for console and page."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


class Task(ABC):
    """One task on the data of one training."""

    name: ClassVar[str]  # the value of ``--task``
    title: ClassVar[str]  # of the training, on its page
    product: ClassVar[str]  # what is trained; the weights are ``PRODUCT.safetensors``
    score: ClassVar[str]  # the column of metrics.csv that selects the best step (higher is better)
    score_name: ClassVar[str]  # of that column, in sentences
    option: ClassVar[str] = ""  # of the command line, for the table of targets; empty if the targets are label maps
    labelled: ClassVar[bool] = False  # whether crops are read with their label maps
    sides: Sides = Sides()  # of its labels

    def __init__(self, store: Store, train: Sequence[Case], val: Sequence[Case], notes: Sequence[str] = ()) -> None:
        """Set the cases to train and to validate on; `notes` are sentences on their choice."""
        self.store, self.train, self.val, self.notes = store, list(train), list(val), list(notes)

    @classmethod
    @abstractmethod
    def choose(
        cls, store: Store, labels: str | None, seed: int, table: Path | None, start: Start | None = None
    ) -> Self:
        """The task of a new run, with its cases; raises StoreError, SourceError or RunError."""

    @classmethod
    @abstractmethod
    def resume(cls, store: Store, about: Mapping[str, Any], seed: int) -> Self:
        """The task of a run that is resumed, from its run.json."""

    @classmethod
    def table_of(cls, classes: Path | str | None, values: Path | str | None) -> Path | None:
        """The table of targets from this task's option; raises RunError if another task's option is set."""
        given = {"--classes": classes, "--values": values}
        for option, table in given.items():
            if table is not None and option != cls.option:
                own = f"give {cls.option} instead" if cls.option else "leave it out"
                raise RunError(f"{table}: {option} is not for a {cls.name}; {own}.")
        table = given.get(cls.option)
        return None if table is None else Path(table)

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """The columns of metrics.csv that a validation fills."""

    @property
    @abstractmethod
    def loss_name(self) -> str:
        """The axis label of the loss plot."""

    @abstractmethod
    def network(self, encoder: Encoder, recipe: Recipe) -> nn.Module:
        """A new network on an encoder."""

    @abstractmethod
    def loss(self, output: Any, batch: Batch, foreground_weight: float = 1.0) -> Tensor:
        """The loss of the network's output for a batch, computed in float32.

        `foreground_weight` is the weight of labelled voxels in a segmentation.
        """

    def self_training_loss(
        self, output: Any, teacher: Any, batch: Batch, threshold: float, foreground_weight: float = 1.0
    ) -> Tensor:
        """The loss against a teacher's output for the same crops, for a task with label maps."""
        raise NotImplementedError

    @abstractmethod
    def windows(self, case: Case, recipe: Recipe) -> int:
        """The number of windows in the prediction of a case."""

    @abstractmethod
    def score_case(self, network: nn.Module, case: Case, recipe: Recipe) -> Any:
        """The scores of one case in a validation, as plain numbers in lists and dicts; raises StoreError."""

    @abstractmethod
    def figures(self, scores: Mapping[str, Any]) -> dict[str, float]:
        """The columns of metrics.csv from the scores of cases, by case name."""

    def load_head(self, network: nn.Module, start: Start, report: LoadReport) -> None:
        """Load the decoder and head of a fine-tuned network as far as they fit; nothing by default."""
        return

    def prepare(self, network: nn.Module, crops: Iterable[Tensor], recipe: Recipe, folder: Path) -> None:
        """Called once before the first step; does nothing by default."""
        return

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """The entries of run.json."""

    def decided(self, scores: Mapping[str, Any]) -> dict[str, Any]:
        """Entries of metadata and run.json that depend on the best validation's scores by case; none by default."""
        return {}

    @abstractmethod
    def metadata(self, recipe: Recipe) -> dict[str, Any]:
        """The entries of the weights file's metadata."""

    @staticmethod
    @abstractmethod
    def evaluate(
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
        """Score a trained network.

        Args:
            run: a fine-tuning's run folder or weights file.
            data: a store (its source files must still be there), or a folder or list of scans, which is split as it
                was for the training if it has no splits of its own.
            split: ``train``, ``val`` or ``test``; ``all`` means every case that has a reference.
            tolerance_mm: of a segmentor's surface Dice.
            on_case: called with the cases done and their number.
            others: further runs, whose outputs are averaged with the first one's.
            about: the content of the run's run.json, if there is one.
            table: targets to use instead of those in `about`.
            all_components: of label maps, keep the small ones too.
        """

    @staticmethod
    @abstractmethod
    def predict(
        run: Path,
        scans: Sequence[Path],
        out: Path,
        probabilities: bool = False,
        on_case: Progress | None = None,
        label_format: str = "nifti",
        others: Sequence[Path] = (),
        all_components: bool = False,
    ) -> Written:
        """Predict new scans.

        Args:
            run: a fine-tuning's run folder or weights file.
            scans: files, DICOM series, folders or lists, all of whose scans are taken; see `given_scans`.
            out: folder for the results.
            probabilities: of a segmentor, write ``CASE_probabilities.nii.gz`` too.
            on_case: called with the scans done and their number.
            label_format: of label maps, ``nifti`` or ``dicom-seg``.
            others: further runs, whose outputs are averaged with the first one's.
            all_components: of label maps, keep the small ones too.

        Returns:
            the files written.
        """

    @staticmethod
    @abstractmethod
    def tables(result: Mapping[str, Any]) -> list[ResultTable]:
        """The tables of an evaluation, for console and page."""

    @staticmethod
    @abstractmethod
    def write_csv(file: Path, result: Mapping[str, Any]) -> None:
        """Write an evaluation as CSV."""

    @classmethod
    @abstractmethod
    def curves(cls, columns: Iterable[str]) -> dict[str, str]:
        """The columns of metrics.csv in the validation plot, with their labels."""

    @classmethod
    def facts(cls, about: Mapping[str, Any]) -> list[tuple[str, str]]:
        """The rows (name, value) that the page shows of a run.json."""
        return []

    def image(self, case: Case, recipe: Recipe) -> Tensor:
        """A prepared scan as the network's input, (C, X, Y, Z) float32; raises StoreError."""
        stored = self.store.image(case.name)
        return torch.from_numpy(window(stored, self.store.preparation.intensity, recipe.window))


class Predictor:
    """A trained network in evaluation mode, with what is needed to predict a scan from its files."""

    def __init__(self, network: nn.Module, metadata: dict[str, Any]) -> None:
        self.network = network.cuda() if torch.cuda.is_available() else network
        self.preparation = Preparation.from_dict(metadata["preparation"])
        self.metadata = metadata

    @property
    def crop(self) -> tuple[int, int, int]:
        """The size of a window, in voxels along X, Y, Z."""
        x, y, z = self.metadata["crop"]
        return x, y, z

    def prepare(self, images: Sequence[Path], order: Sequence[int] | None = None) -> PreparedScan:
        """Read and prepare a scan; `order` has the index in the scan of each channel of the network.

        Prints a warning if the scan seems to be of another modality than the training scans.
        """
        kind = self.preparation.intensity
        volume = read_channels(images, len(self.preparation.channels), self.preparation.match_channels)
        if (why := rule_misfit(measure(volume), kind)) is not None:
            warn(f"{images[0]}: the network was trained on {kind.upper()}, but {why}; check what the scan is.")
        scan = prepare_volume(volume, self.preparation, images[0])
        if order is None or list(order) == sorted(order):
            return scan
        return replace(scan, image=scan.image[list(order)], intensities=tuple(scan.intensities[at] for at in order))

    def image(self, scan: PreparedScan) -> Tensor:
        """The network's input, (C, X, Y, Z) float32, windowed as in training."""
        bounds = tuple(self.metadata["window"])
        return torch.from_numpy(window(scan.image, self.preparation.intensity, bounds))
