"""The studies by name, and what they have in common: ask, train, choose, test once, tell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from voxmim.errors import RunError, StoreError, nearest
from voxmim.files import lock_folder, write_text
from voxmim.store.format import Store
from voxmim.studies import convergence, decoder, masking, resolution, transfer
from voxmim.studies import labels as labels_study
from voxmim.studies.arm import Arm, Comparison
from voxmim.studies.asked import Asked, ready
from voxmim.studies.budget import Size, choose, seconds_of, sized
from voxmim.studies.budget import in_words as size_in_words
from voxmim.studies.write import Shown, write_study
from voxmim.training.setup import refuse_unresolved

SEEDS = 3
LABELS = "0.1"
SIZE = "size.json"  # what was chosen to fit the budget


@dataclass(frozen=True)
class Study:
    """One of the studies.

    Attributes:
        title: of its page.
        arms: what is compared.
        shown: what the page shows.
        tested: the arms that are scored on the test cases, where that is not all of them: those chosen on validation
            cases.
        stores: the least and the most that it takes.
        labels: labelled cases to use where nothing is told; several where it varies them.
    """

    title: str
    arms: Callable[[Asked], list[Arm]]
    shown: Callable[[Comparison], Shown]
    tested: Callable[[Comparison], Sequence[Arm]] = attrgetter("arms")
    stores: tuple[int, int] = (1, 1)
    labels: tuple[str, ...] = (LABELS,)


STUDIES: dict[str, Study] = {
    "convergence": Study(
        "Does pre-training make fine-tuning converge sooner, and end higher?", convergence.arms, convergence.shown
    ),
    "masking": Study(
        "How much should be hidden, and in how large pieces?", masking.arms, masking.shown, masking.tested
    ),
    "decoder": Study("How light may the decoder be?", decoder.arms, decoder.shown, decoder.tested),
    "labels": Study(
        "What does pre-training bring with how many labels?",
        labels_study.arms, labels_study.shown, labels=labels_study.NUMBERS,
    ),
    "resolution": Study("Does it hold at other spacings and crop sizes?", resolution.arms, resolution.shown),
    "transfer": Study(
        "Does an encoder that was pre-trained on other scans help?", transfer.arms, transfer.shown, stores=(2, 9)
    ),
}  # fmt: skip


def study(
    name: str,
    data: Path | str | Sequence[Path | str],
    out: Path | str,
    seeds: int | None = None,
    budget: str | None = None,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    labels: str | Sequence[str] | None = None,
    scheduler: str | None = None,
    accept_findings: bool = False,
) -> dict[str, Any]:
    """Answer one of the paper's questions on your own scans; done again, it goes on where it stopped.

    Args:
        name: ``convergence``, ``masking``, ``decoder``, ``labels``, ``resolution`` or ``transfer``.
        data: a store with labels in the splits train, val and test; for ``transfer`` two or more.
        out: folder for the trials, which studies in one folder share, and for the study's own folder in it.
        seeds: how often everything is trained, from the recipe's seed on; None takes 3, or what the budget allows.
        budget: the time that all may take on this machine, such as ``90m`` or ``2h``, to which steps, seeds and rates
            are fitted; None takes those of the recipe.
        recipe: packaged recipe or YAML file that all arms follow; None takes ``tiny``.
        settings: what differs from it; ``{"simclr:pretrain.steps": 800}`` is for one pretext alone.
        labels: labelled cases to use: a share, a number or ``all``, of which ``labels`` takes several; None takes a
            tenth, and for ``labels`` 3, 6, 12 and all.
        scheduler: address of a Dask scheduler whose workers do a trial each.
        accept_findings: train although findings of a store are in doubt (`Store.unresolved`).

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
    if budget is not None and scheduler is not None:
        raise RunError("--budget counts on this machine's speed, and a cluster has its own; leave out one of them.")
    asked = Asked(stores, out, recipe or "tiny", settings or {}, told)
    for store in stores:
        refuse_unresolved(Store(store), accept_findings)
    command = _command(
        ["voxmim", "study", name, "--data", *map(str, stores), "--out", str(out)],
        {"seeds": seeds, "budget": budget, "recipe": recipe, "scheduler": scheduler},
        settings or {},
        [labels] if isinstance(labels, str) else labels or [],
        accept_findings,
    )
    seconds = 0.0 if budget is None else seconds_of(budget)
    wished = SEEDS if seeds is None else seeds
    if wished < 1:
        raise RunError(f"--seeds {wished}: give 1 or more.")
    busy = RunError(f"{out}: another study is at work here; wait for it, or name another folder.")
    with lock_folder(out, busy):
        numbers = range(asked.base.seed, asked.base.seed + wished)
        arms, choices = ready(chosen.arms(asked), numbers), []
        if budget is not None:
            act = partial(choose, arms, wished, seeds is not None, seconds)
            size = _size(out / name / SIZE, command, act)
            arms, numbers = sized(arms, size), numbers[: size.seeds]
            choices.append(size_in_words(budget, size, arms))
            Console(highlight=False).print(choices[0], markup=False, soft_wrap=True)
        comparison = Comparison(arms, numbers, out, scheduler)
        comparison.train()
        comparison.test(chosen.tested(comparison))
        return write_study(out / name, name, chosen.title, comparison, chosen.shown(comparison), command, choices)


def _size(file: Path, command: str, act: Callable[[], Size]) -> Size:
    """The size chosen before for the same command, so that a study goes on as it began, or a new choice."""
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept.pop("command") == command:
            return Size(**kept)
    size = act()
    write_text(file, json.dumps({"command": command, **asdict(size)}, indent=1))
    return size


def _count(stores: tuple[int, int]) -> str:
    return "one store" if stores == (1, 1) else f"{stores[0]} stores or more"


def _command(
    start: list[str], options: Mapping[str, Any], settings: Mapping[str, Any], labels: Sequence[str], accepted: bool
) -> str:
    """The command line that asks for the same."""
    command = list(start)
    for option, value in options.items():
        command += [] if value is None else [f"--{option}", str(value)]
    for key, value in settings.items():
        text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
        command += ["--set", f"{key}={text}"]
    command += ["--labels", *labels] if labels else []
    return shlex.join([*command, *(["--accept-findings"] if accepted else [])])
