"""The demo, and the paper's questions as experiments."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def demo(
    data: Path | str | None = None,
    out: Path | str = "voxmim-demo",
    seed: int = 0,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    spacing: tuple[float, float, float] | None = None,
) -> dict[str, Any]:
    """Run every step in one go, on phantoms or on your own scans.

    The steps are prepare, pretrain, finetune, evaluate and predict; a segmentor is also trained from scratch for
    comparison. The command of each step is printed. Run it again to continue where it stopped.

    Args:
        data: folder or list of labelled scans. Default: generated phantoms.
        out: folder for everything: new, empty, or that of an earlier demo.
        seed: seed of everything random.
        recipe: packaged recipe or YAML file. Default: demo for phantoms, resenc-tiny for your data.
        settings: settings that differ from the recipe, such as mask.ratio=0.6.
        spacing: voxel size in mm. Default: the median of your data, 7.5 mm for phantoms.

    Returns:
        The content of study.json, and the seconds of each step.

    Raises:
        VoxmimError: the data, the recipe or the folder cannot be used.
    """
    from voxmim.studies.demo import demo

    return demo(data, out, seed, recipe, settings, spacing)


def study(
    name: str,
    data: Path | str | Sequence[Path | str],
    out: Path | str,
    seeds: int = 3,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    labels: str | Sequence[str] | None = None,
    scheduler: str | None = None,
    accept_findings: bool = False,
    plan_only: bool = False,
) -> dict[str, Any]:
    """Answer one of the paper's questions with an experiment on your data.

    It trains all arms of a comparison with several seeds and writes a page. Test cases are scored once, at the end. Run
    it again to continue where it stopped. The exit status is 1 if trials are missing.

    Args:
        name: convergence, masking, decoder, labels, resolution, transfer, pretraining, unlabelled or scaling.
        data: store with labels in the splits train, val and test; for transfer, two or more stores.
        out: folder for all results; studies in the same folder share trainings.
        seeds: number of seeds.
        recipe: packaged recipe or YAML file for all arms. Default: tiny, and resenc-tiny for unlabelled and scaling.
        settings: settings that differ from the recipe; for one pretext only, such as simclr:pretrain.batch=32.
        labels: labelled cases to use: a fraction (0.1), a number, or all. The studies labels and unlabelled take
            several. Default: a tenth; labels 3 6 12 all, unlabelled 3 6.
        scheduler: address of a Dask scheduler whose workers run one trial each.
        accept_findings: train although findings of a store are in doubt.
        plan_only: train nothing; print how many trials, hours and GB the study will take.

    Returns:
        The content of study.json; with plan_only, the estimate.

    Raises:
        VoxmimError: the stores, the recipe or the folder cannot be used.
    """
    from voxmim.studies.study import study

    return study(name, data, out, seeds, recipe, settings, labels, scheduler, accept_findings, plan_only)
