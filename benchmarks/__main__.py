"""Run one benchmark or all, and print a table: ``python -m benchmarks NAME [--json FILE]``.

    step      pre-training step, compared with a plain float32 implementation of the paper's model
    finetune  fine-tuning step of a UNETR and a U-Net, compared with MONAI's networks in float32 and bf16
    predict   prediction, compared with MONAI's sliding window; memory for a large scan
    crops     crops per second, compared with MONAI's PersistentDataset and CacheDataset; file reads per crop
    prepare   scans per CPU second, compared with MONAI's transforms
    commands  startup time, time waiting for crops, time for the report, fraction of a command spent training
    scale     prepare with several processes, a training step with several threads
    gpu       training steps on a GPU, compared with MONAI's networks in bf16 (run by benchmarks/gpu.sh)

Both sides of a row alternate in one process (A B A B). A ratio is the median over rounds, with minimum and maximum;
above 1, voxmim is faster. Each side uses the malloc settings of its own programs (see `timing.default_malloc`).
--smoke runs everything at toy size, as a test.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib import import_module
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # as voxmim's commands do; must be set before torch is imported

NAMES = ("step", "finetune", "predict", "crops", "prepare", "commands", "scale", "gpu")


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmarks, print the tables and write the JSON file."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=(*NAMES, "all"), help="benchmark to run; all runs all but gpu")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="toy size and one round")
    options = parser.parse_args(arguments)

    import torch

    from benchmarks.timing import Report
    from voxmim.networks.precision import fast_bfloat16
    from voxmim.workers import keep_memory

    if not fast_bfloat16(torch.device("cuda" if torch.cuda.is_available() else "cpu")):
        print("warning: slow bfloat16 on this device, so the bf16 rows are not meaningful", file=sys.stderr)
    keep_memory()  # as every command of voxmim does
    report = Report()
    for name in NAMES[:-1] if options.name == "all" else (options.name,):
        module = import_module(f"benchmarks.{name}")
        module.measure(report, 1 if options.smoke else options.rounds, options.smoke)
        print(report.table(name), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(report.as_json(), indent=1))


if __name__ == "__main__":
    main()
