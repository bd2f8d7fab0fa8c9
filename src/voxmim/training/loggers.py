"""Logging to TensorBoard, Weights & Biases and MLflow through Lightning's loggers."""

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import yaml
from PIL import Image

from voxmim.console import ERRORS, plain
from voxmim.errors import require
from voxmim.files import write_text
from voxmim.recipe import recipe_to_yaml
from voxmim.training.run import Run

STATE = "loggers.json"  # the identifier of the run in each logger, and the last step that was logged


def _tensorboard(run: Run, identifier: str | None, step: int) -> Any:
    from lightning.fabric.loggers import TensorBoardLogger

    return TensorBoardLogger(run.path, "tensorboard", "", purge_step=step)


def _wandb(run: Run, identifier: str | None, step: int) -> Any:
    """Offline unless WANDB_MODE is set, so that pictures of scans leave the machine only on request."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    return WandbLogger(
        run.path.name,
        run.path,
        id=identifier,
        offline="WANDB_MODE" not in os.environ,
        project=os.environ.get("WANDB_PROJECT", "voxmim"),
        settings=wandb.Settings(console="off", disable_git=True, quiet=True),
    )


def _mlflow(run: Run, identifier: str | None, step: int) -> Any:
    """In the run folder unless MLFLOW_TRACKING_URI is set."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from lightning.pytorch.loggers import MLFlowLogger

    uri = os.environ.get("MLFLOW_TRACKING_URI") or (run.path / "mlruns").resolve().as_uri()
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "voxmim")
    return MLFlowLogger(name, run.path.name, uri, run_id=identifier)


def _tensorboard_picture(logger: Any, name: str, picture: Image.Image, step: int) -> None:
    logger.experiment.add_image(name, np.asarray(picture), step, dataformats="HWC")


def _wandb_picture(logger: Any, name: str, picture: Image.Image, step: int) -> None:
    logger.log_image(name, [picture], step)


def _mlflow_picture(logger: Any, name: str, picture: Image.Image, step: int) -> None:
    logger.experiment.log_image(logger.run_id, picture, key=name, step=step)


LOGGERS: dict[str, tuple[Callable[..., Any], Callable[..., None]]] = {
    "tensorboard": (_tensorboard, _tensorboard_picture),
    "wandb": (_wandb, _wandb_picture),
    "mlflow": (_mlflow, _mlflow_picture),
}
"""The functions that open a logger for a run and log a picture. Each logger has an extra of the same name."""


class Loggers:
    """Writes the rows of a run's metrics.csv, its settings and its pictures to loggers.

    A logger that fails is reported once and closed; the training goes on.

    Args:
        names: of `LOGGERS`.

    Raises:
        MissingPackageError: one of them is not installed.
    """

    def __init__(self, names: Sequence[str]) -> None:
        for name in names:
            require(name, f"--log {name}", name)
        self._names = list(dict.fromkeys(names))
        self._open: dict[str, Any] = {}
        self._state: dict[str, dict[str, Any]] = {}
        self._run: Run | None = None

    def add(self, run: Run, row: Mapping[str, float]) -> None:
        """Log a row of metrics.csv; the first call also logs the earlier rows that a logger does not have."""
        if not self._names:
            return
        rows: Sequence[Mapping[str, float]] = [row]
        if self._run is None:
            self._run, rows = run, run.metrics()
            file = run.path / STATE
            self._state = json.loads(file.read_text()) if file.is_file() else {}
            for name in self._names:
                with self._guarded(name):
                    self._begin(name, int(row["step"]))
        missing = {name: [row for row in rows if row["step"] > self._state[name]["step"]] for name in self._open}
        for name in self._open:  # saved before logging, so that a kill cannot log a point twice
            self._state[name]["step"] = max(self._state[name]["step"], int(row["step"]))
        write_text(run.path / STATE, json.dumps(self._state))
        for name, new_rows in missing.items():
            with self._guarded(name):
                logger = self._open[name]
                for new in new_rows:
                    logger.log_metrics({key: value for key, value in new.items() if key != "step"}, int(new["step"]))
                if name == "tensorboard":
                    logger.save()  # a kill would lose queued points

    def pictures(self, step: int, pictures: Iterable[tuple[str, bytes]]) -> None:
        """Log pictures (title, PNG) of a step, unless they are logged already."""
        shown = [(title, Image.open(io.BytesIO(png)).convert("RGB")) for title, png in pictures]
        for name in [name for name in self._open if step > self._state[name]["pictures"]]:
            with self._guarded(name):
                for title, picture in shown:
                    LOGGERS[name][1](self._open[name], title, picture, step)
        for name in self._open:
            self._state[name]["pictures"] = max(step, self._state[name]["pictures"])
        if self._run is not None:
            write_text(self._run.path / STATE, json.dumps(self._state))

    def close(self, status: str) -> None:
        """Close the loggers with the status ``success`` or ``failed``."""
        for name in list(self._open):
            with self._guarded(name):
                logger = self._open.pop(name)
                logger.finalize(status)
                if name == "wandb":
                    logger.experiment.finish(int(status != "success"))

    def _begin(self, name: str, step: int) -> None:
        """Open a logger at a step: a new one logs the settings, one of a resumed run continues."""
        assert self._run is not None
        state = self._state.get(name, {"step": 0, "pictures": 0})
        if name == "tensorboard":  # points after the checkpoint are purged and logged again
            state = {**state, **{key: min(state[key], step - 1) for key in ("step", "pictures")}}
        logger = LOGGERS[name][0](self._run, state.get("id"), state["step"] + 1)
        if "id" not in state or name == "wandb":  # a kill may have lost the settings in wandb's offline files
            logger.log_hyperparams(yaml.safe_load(recipe_to_yaml(self._run.recipe())))
        self._state[name] = {**state, "id": logger.version}
        self._open[name] = logger

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a logger must not end a training
            self._open.pop(name, None)
            ERRORS.print(plain(f"--log {name} stopped, the training goes on: {error}"), soft_wrap=True)
