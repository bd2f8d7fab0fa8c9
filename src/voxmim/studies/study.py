"""The studies by name, and what they have in common: ask, train, choose, test once, tell."""

from __future__ import annotations

import fcntl
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from voxmim.errors import RunError, StoreError, nearest
from voxmim.studies import convergence
from voxmim.studies.arm import Arm, Comparison
from voxmim.studies.asked import Asked, ready
from voxmim.studies.write import Shown, write_study

SEEDS = 3
LABELS = "0.1"


@dataclass(frozen=True)
class Study:
    """One of the studies.

    Attributes:
        title: of its page.
        arms: what is compared.
        tested: the arms that are scored on the test cases, chosen from the others on validation cases if not all.
        shown: what the page shows.
        stores: the least and the most that it takes.
        labels: labelled cases to use where nothing is told; several where it varies them.
    """

    title: str
    arms: Callable[[Asked], list[Arm]]
    tested: Callable[[Comparison], Sequence[Arm]]
    shown: Callable[[Comparison], Shown]
    stores: tuple[int, int] = (1, 1)
    labels: tuple[str, ...] = (LABELS,)


STUDIES: dict[str, Study] = {
    "convergence": Study(
        "Does pre-training make fine-tuning converge sooner, and end higher?",
        convergence.arms, convergence.tested, convergence.shown,
    ),
}  # fmt: skip


def study(
    name: str,
    data: Path | str | Sequence[Path | str],
    out: Path | str,
    seeds: int | None = None,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    labels: str | Sequence[str] | None = None,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Answer one of the paper's questions on your own scans; done again, it goes on where it stopped.

    Args:
        name: ``convergence``.
        data: a store with labels in the splits train, val and test.
        out: folder for the trials, which studies in one folder share, and for the study's own folder in it.
        seeds: how often everything is trained, from the recipe's seed on; None takes 3.
        recipe: packaged recipe or YAML file that all arms follow; None takes ``tiny``.
        settings: what differs from it; ``{"simclr:pretrain.steps": 800}`` is for one pretext alone.
        labels: labelled cases to use: a share, a number or ``all``; None takes a tenth.
        scheduler: address of a Dask scheduler whose workers do a trial each.

    Returns:
        the content of ``study.json``.

    Raises:
        VoxmimError: one sentence on what is wrong.
    """
    if name not in STUDIES:
        raise RunError(f"'{name}' is no study ({', '.join(STUDIES)}){nearest(name, STUDIES) or '.'}")
    chosen, out = STUDIES[name], Path(out)
    stores = tuple(map(Path, [data] if isinstance(data, str | Path) else data))
    if not chosen.stores[0] <= len(stores) <= chosen.stores[1]:
        raise StoreError(f"the study {name} takes {_count(chosen.stores)}, but {len(stores)} were given.")
    told = (labels,) if isinstance(labels, str) else tuple(labels or chosen.labels)
    if len(told) > 1 and len(chosen.labels) == 1:
        raise StoreError(f"--labels {' '.join(told)}: the study {name} uses one number of labelled cases; give one.")
    asked = Asked(stores, out, recipe or "tiny", settings or {}, told)
    first = asked.base.seed
    numbers = [first + number for number in range(SEEDS if seeds is None else seeds)]
    if not numbers:
        raise RunError(f"--seeds {seeds}: give 1 or more.")
    console = Console(highlight=False)
    with _alone(out):
        arms = ready(chosen.arms(asked), numbers)
        choices: list[str] = []
        comparison = Comparison(arms, numbers, out, scheduler, console=console)
        comparison.train()
        comparison.test(chosen.tested(comparison))
        command = _command(name, stores, out, seeds, recipe, settings, labels, scheduler)
        return write_study(out / name, name, f"{chosen.title}", comparison, chosen.shown(comparison), command, choices)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """No two studies write into one folder at a time."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"{out}: another study is at work here; wait for it, or name another folder.") from None
        yield


def _count(stores: tuple[int, int]) -> str:
    return "one store" if stores == (1, 1) else f"{stores[0]} stores or more"


def _command(
    name: str, stores: Sequence[Path], out: Path, seeds: int | None, recipe: str | Path | None,
    settings: Mapping[str, Any] | None, labels: str | Sequence[str] | None, scheduler: str | None,
) -> str:  # fmt: skip
    """The command line that asks for the same."""
    command = ["voxmim", "study", name, "--data", *map(str, stores), "--out", str(out)]
    told = {"seeds": seeds, "recipe": recipe, "scheduler": scheduler}
    for option, value in told.items():
        command += [] if value is None else [f"--{option}", str(value)]
    for key, value in (settings or {}).items():
        text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
        command += ["--set", f"{key}={text}"]
    if labels is not None:
        command += ["--labels", *([labels] if isinstance(labels, str) else labels)]
    return shlex.join(command)
