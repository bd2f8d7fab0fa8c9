"""The paper's questions as experiments."""

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

    Prepare, pre-train, fine-tune, evaluate, predict; a segmentor from scratch is trained for comparison. Each step's
    own command is printed. Run it again to continue where it stopped.

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
    """Run one of the paper's questions as an experiment on your data.

    Run it again to continue where it stopped. Test cases are evaluated once, at the end. The exit status is 1 if trials
    are missing.

    Args:
        name: convergence, masking, decoder, labels, resolution, transfer, pretraining,
            unlabelled or scaling.
        data: stores with labels in the splits train, val and test: one, or two and more for transfer.
        out: folder for everything; studies in the same folder reuse each other's trainings.
        seeds: number of seeds.
        recipe: packaged recipe or YAML file for all arms. Default: tiny, and resenc-tiny for unlabelled and scaling.
        settings: settings that differ from the recipe, also of one pretext only, such as simclr:pretrain.batch=32.
        labels: labelled cases to use: a fraction (0.1), a number, or all; several for the studies labels and
            unlabelled. Default: a tenth.
        scheduler: address of a Dask scheduler whose workers run one trial each.
        accept_findings: train although findings of a store are in doubt.
        plan_only: train nothing; print the trials, hours and disk that the study will take.

    Returns:
        The content of study.json, or with plan_only what it will take.

    Raises:
        VoxmimError: the stores, the recipe or the folder cannot be used.
    """
    from voxmim.studies.study import study

    return study(name, data, out, seeds, recipe, settings, labels, scheduler, accept_findings, plan_only)
