"""Every raw result of a study, one number a row."""

from collections.abc import Iterator, Mapping
from typing import Any

from voxmim.studies.arm import Comparison
from voxmim.studies.trial import Trial
from voxmim.tasks.metrics import METRICS
from voxmim.tasks.segmentation.task import case_column

PRIOR = "position-only prior"
COLUMNS = (
    "trial", "kind", "group", "arm", "seed", "lr", "chosen", "split", "step", "case", "label", "metric", "value",
)  # fmt: skip


def raw_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Every validation of every training that is done, and every score of a test case, by `COLUMNS`."""
    seen = set()
    for arm in comparison.arms:
        chosen = comparison.lr(arm)
        for seed in comparison.seeds:
            start = arm.pretrain(seed)
            if start is not None and start.name not in seen:
                seen.add(start.name)
                yield from _validated(comparison, start, {"arm": arm.name, "seed": seed})
            for lr in arm.recipe.lrs:
                about = {"group": arm.group, "arm": arm.name, "seed": seed, "lr": lr, "chosen": int(lr == chosen)}
                yield from _validated(comparison, arm.finetune(seed, lr), about)
        for seed, result in comparison.results(arm).items():
            trial = comparison.evaluation(arm, seed, chosen)
            assert trial is not None
            about = {"trial": trial.name, "kind": "evaluate", "group": arm.group, "seed": seed, "lr": chosen}
            about |= {"chosen": 1, "split": result["split"]}
            for who, scored in ((arm.name, result), (PRIOR, result["prior"])):
                for case in scored["cases"]:
                    for metric in METRICS:
                        for label, value in case.get(metric, {}).items():
                            one = {"arm": who, "case": case["case"], "label": label, "metric": metric, "value": value}
                            yield about | one


def _validated(comparison: Comparison, trial: Trial, about: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row in comparison.rows(trial):
        for key, value in row.items():
            one = {"trial": trial.name, "kind": trial.kind, "split": "val", "step": int(row["step"]), "value": value}
            if key.startswith(case_column("")):
                yield {**about, **one, "case": key.removeprefix(case_column("")), "metric": "dice"}
            elif key.startswith("val_dice "):
                yield {**about, **one, "label": key.removeprefix("val_dice "), "metric": "dice"}
            elif key == "loss":
                yield {**about, **one, "split": "train", "metric": "loss"}
            elif key not in ("step", "lr"):
                yield {**about, **one, "metric": key.removeprefix("val_")}
