"""All steps in one command, on phantoms or own scans: prepare, compare with and without pre-training, predict."""

import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voxmim.console import announce
from voxmim.errors import RecipeError, RunError
from voxmim.images.geometry import Spacing
from voxmim.phantoms.cohort import write_cohort
from voxmim.recipe import load_recipe, write_recipe
from voxmim.report.reconstruct import reconstruct
from voxmim.store.format import Store
from voxmim.store.prepare import prepare
from voxmim.studies import pretraining
from voxmim.studies.design import LABELS
from voxmim.studies.request import Request
from voxmim.studies.study import answer
from voxmim.tasks.scans import labelled_cases, source_of
from voxmim.tasks.segmentation.predict import predict
from voxmim.training.setup import refuse_unresolved

PHANTOMS = 48
PHANTOM_SPACING = (7.5, 7.5, 7.5)  # mm; coarse, so that a small crop contains an organ and its neighbours
STORE = "store"


@dataclass
class Steps:
    """The steps that were run."""

    seconds: dict[str, float] = field(default_factory=dict)  # by the name of the command
    commands: list[str] = field(default_factory=list)

    def run(self, command: list[str | Path], step: Callable[[], Any]) -> Any:
        """Print the command of a step, run the step and note its time."""
        text = shlex.join(["voxmim", *map(str, command)])
        self.commands.append(text)
        announce(text)
        began = time.monotonic()
        result = step()
        self.seconds[str(command[0])] = round(time.monotonic() - began, 1)
        return result


def demo(
    data: Path | str | None = None,
    out: Path | str = "voxmim-demo",
    seed: int = 0,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    spacing: Spacing | None = None,
) -> dict[str, Any]:
    """Run all steps and write ``report.html``; see `voxmim.demo` for arguments, result and errors."""
    out = Path(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "recipe.yaml").is_file()):
        raise RunError(f"{out}: there is something else here already; name another folder with --out, or delete it.")
    chosen = load_recipe(recipe or ("resenc-tiny" if data else "demo"), {"seed": seed, **(settings or {})})
    if chosen.nodes * chosen.devices > 1:
        raise RecipeError("a demo trains in one process; leave out nodes and devices, or run its commands one by one.")
    recipe_file, store, steps = out / "recipe.yaml", out / STORE, Steps()
    write_recipe(recipe_file, chosen)
    source = Path(data) if data is not None else out / "phantoms"
    if data is None:
        spacing = spacing or PHANTOM_SPACING
        if not source.exists():
            command: list[str | Path] = ["phantom", source, "--cases", str(PHANTOMS), "--seed", str(seed)]
            steps.run(command, lambda: write_cohort(source, PHANTOMS, seed))
    command = ["prepare", source, store, "--seed", str(seed)]
    if spacing is not None:
        command += ["--spacing", *(f"{size:g}" for size in spacing)]
    steps.run(command, lambda: prepare(source, store, spacing, seed=seed))
    refuse_unresolved(Store(store))

    request = Request((store,), out, recipe_file, {}, (LABELS,))
    command = ["study", "pretraining", "--data", store, "--out", out, "--seeds", "1", "--recipe", recipe_file]
    before = list(steps.commands)
    result = steps.run(command, lambda: answer(pretraining.STUDY, request, 1, out, [*before, steps.commands[-1]]))
    scan = list(labelled_cases(source_of(store, 0), "test")[0][0].images)
    run, encoder = (result["arms"][1][key].get(seed) for key in ("runs", "pretrainings"))
    if run is not None:
        folder = out / "predictions"
        steps.run(["predict", run, *scan, "--out", folder], lambda: predict(Path(run), scan, folder))
    if encoder is not None and chosen.pretext_class.reconstructs:
        images = out / "reconstructions"
        steps.run(["reconstruct", encoder, *scan, "--out", images], lambda: reconstruct(Path(encoder), scan, images))
    return {**result, "seconds": steps.seconds}
