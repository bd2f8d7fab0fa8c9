"""The folder that one training writes."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch

from voxmim.errors import RunError
from voxmim.files import atomic_write, write_csv, write_json
from voxmim.recipe import Recipe, load_recipe, write_recipe
from voxmim.settings import RENAMED_COLUMNS

RECIPE, ABOUT, METRICS, CHECKPOINT = "recipe.yaml", "run.json", "metrics.csv", "last.ckpt"


class Run:
    """One run folder; `kind` is ``pretrain`` or ``finetune``, `about` the content of run.json."""

    def __init__(self, path: Path, kind: str, about: Mapping[str, Any]) -> None:
        self.path, self.kind, self.about = path, kind, dict(about)

    @classmethod
    def new(cls, path: Path | str, kind: str, recipe: Recipe, about: Mapping[str, Any]) -> Self:
        """Create a run folder.

        Raises:
            RunError: the folder is not empty.
        """
        path = Path(path)
        refuse_occupied(path)
        path.mkdir(parents=True, exist_ok=True)
        write_recipe(path / RECIPE, recipe)
        run = cls(path, kind, about)
        run.write_about()
        return run

    @classmethod
    def open(cls, path: Path | str, kind: str | None = None) -> Self:
        """Open a run folder, of a given kind if there is one.

        Raises:
            RunError: the folder is missing, not a run, or of another kind.
        """
        path = Path(path)
        file = path / ABOUT
        if not file.is_file():
            raise RunError(f"{path}: this is not a run folder (no {ABOUT}); give the folder that a training wrote.")
        try:
            about = json.loads(file.read_text())
            found = about["kind"]
        except (ValueError, KeyError):
            raise RunError(f"{file}: this file is damaged; start the training anew in another folder.") from None
        if kind is not None and found != kind:
            raise RunError(f"{path}: this run is a {found}, but a {kind} is needed here; give another folder.")
        return cls(path, found, about)

    def recipe(self) -> Recipe:
        """The resolved recipe of the run."""
        return load_recipe(self.path / RECIPE)

    def write_about(self) -> None:
        write_json(self.path / ABOUT, {**self.about, "kind": self.kind})

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write last.ckpt atomically."""
        with atomic_write(self.path / CHECKPOINT) as temporary:
            torch.save(dict(state), temporary)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Read last.ckpt; None if the run was stopped before the first checkpoint."""
        file = self.path / CHECKPOINT
        if not file.is_file():
            return None
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many undocumented kinds
            raise RunError(f"{file}: the checkpoint is damaged ({type(error).__name__}); start the run anew.") from None

    def metrics(self) -> list[dict[str, float]]:
        """The rows of metrics.csv, without empty cells and without a last row that a kill cut off."""
        file = self.path / METRICS
        if not file.is_file():
            return []
        text = file.read_text(encoding="utf-8")
        rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        return [{RENAMED_COLUMNS.get(key, key): float(value) for key, value in row.items() if value} for row in rows]

    def curve(self, column: str) -> dict[int, float]:
        """The values of a column of metrics.csv by step, at the steps that have one."""
        return {int(row["step"]): row[column] for row in self.metrics() if column in row}

    def seconds(self) -> float:
        """The duration of the run so far."""
        rows = self.metrics()
        return rows[-1]["seconds"] if rows else 0.0


class MetricsFile:
    """Writes metrics.csv, one flushed row per step; on resume, rows after the checkpoint are removed."""

    def __init__(self, run: Run, columns: list[str], first_step: int) -> None:
        self.columns = columns
        file = run.path / METRICS
        write_csv(file, (self._row(row) for row in run.metrics() if row["step"] <= first_step), columns)
        self._file = file.open("a", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, columns, lineterminator="\n")

    def add(self, row: Mapping[str, float]) -> None:
        self._writer.writerow(self._row(row))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _row(self, row: Mapping[str, float]) -> dict[str, float]:
        return {column: row[column] for column in self.columns if column in row} | {"step": int(row["step"])}


def refuse_occupied(path: Path) -> None:
    """Raise RunError if a new run cannot be put into the folder."""
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise RunError(
            f"{path}: there is something here already; add --resume to go on with it, or name another folder."
        )
