"""Run a study by name: train, select on validation cases, test once, write the page."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from voxmim.errors import RunError, StoreError, nearest
from voxmim.files import lock_folder
from voxmim.store.format import Store
from voxmim.studies import convergence, decoder, labels, masking, pretraining, resolution, scaling, transfer, unlabelled
from voxmim.studies.arm import Comparison
from voxmim.studies.cost import cost_rows
from voxmim.studies.design import Study
from voxmim.studies.request import Request, ready
from voxmim.studies.trial import refuse_other_code
from voxmim.studies.write import write_study
from voxmim.training.setup import refuse_unresolved

SEEDS = 3
STUDIES: dict[str, Study] = {
    "convergence": convergence.STUDY,
    "masking": masking.STUDY,
    "decoder": decoder.STUDY,
    "labels": labels.STUDY,
    "resolution": resolution.STUDY,
    "transfer": transfer.STUDY,
    "pretraining": pretraining.STUDY,
    "unlabelled": unlabelled.STUDY,
    "scaling": scaling.STUDY,
}


def study(
    name: str,
    data: Path | str | Sequence[Path | str],
    out: Path | str,
    seeds: int = SEEDS,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    labels: str | Sequence[str] | None = None,
    scheduler: str | None = None,
    accept_findings: bool = False,
    plan_only: bool = False,
) -> dict[str, Any]:
    """Run a study; see `voxmim.study` for arguments and errors.

    Returns:
        the content of ``study.json``; with `plan_only` ``{"plan": table rows}``, see `cost_rows`.
    """
    if name not in STUDIES:
        raise RunError(f"'{name}' is no study ({', '.join(STUDIES)}){nearest(name, STUDIES) or '.'}")
    chosen, out = STUDIES[name], Path(out)
    stores = tuple(map(Path, [data] if isinstance(data, str | Path) else data))
    if not chosen.stores[0] <= len(stores) <= chosen.stores[1]:
        count = "one store" if chosen.stores == (1, 1) else f"{chosen.stores[0]} stores or more"
        raise StoreError(f"the study {name} takes {count}, but {len(stores)} were given.")
    given = (labels,) if isinstance(labels, str) else tuple(labels or ())
    if len(given) > 1 and len(chosen.labels) == 1:
        raise StoreError(f"--labels {' '.join(given)}: the study {name} uses one number of labelled cases; give one.")
    if seeds < 1:
        raise RunError(f"--seeds {seeds}: give 1 or more.")
    for store in stores:
        refuse_unresolved(Store(store), accept_findings)
    request = Request(stores, out, recipe or chosen.recipe, settings or {}, given or chosen.labels)
    options = {"seeds": seeds, "recipe": recipe, "scheduler": scheduler}
    command = ["voxmim", "study", name, "--data", *map(str, stores), "--out", str(out)]
    command += [text for key, value in options.items() if value is not None for text in (f"--{key}", str(value))]
    for key, value in (settings or {}).items():
        text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
        command += ["--set", f"{key}={text}"]
    command += ["--labels", *given] if given else []
    command += ["--accept-findings"] if accept_findings else []
    return answer(chosen, request, seeds, out / name, [shlex.join(command)], scheduler, plan_only)


def answer(
    chosen: Study,
    request: Request,
    seeds: int,
    folder: Path,
    commands: Sequence[str],
    scheduler: str | None = None,
    plan_only: bool = False,
) -> dict[str, Any]:
    """Train the arms of a study, test them and write its page into `folder`; see `study`.

    `commands` are the command lines that repeat it, the study's own last.
    """
    busy = RunError(f"{request.out}: another study is running here; wait for it, or name another folder.")
    with lock_folder(request.out, busy):
        refuse_other_code(request.out)
        numbers = range(request.base.seed, request.base.seed + seeds)
        comparison = Comparison(ready(chosen.arms(request), numbers), numbers, request.out, scheduler)
        if plan_only:
            return {"plan": cost_rows(comparison, chosen.tested(comparison), bool(chosen.follow_up))}
        comparison.train()
        if chosen.follow_up is not None:
            comparison.arms = [*comparison.arms, *chosen.follow_up(comparison)]
            comparison.train()
        comparison.test(chosen.tested(comparison))
        return write_study(folder, chosen.title, comparison, chosen.findings(comparison), commands)
