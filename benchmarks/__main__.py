"""One benchmark, or all: ``python -m benchmarks NAME [--json FILE]``; a table is printed last.

    step      a pre-training step beside a plain float32 implementation of the paper's model
    finetune  a UNETR and a U-Net step beside MONAI's networks, in float32 and bf16
    predict   a scan's labels beside MONAI's sliding window, and the memory of a large scan
    crops     crops a second beside MONAI's PersistentDataset and CacheDataset, and reads a crop
    prepare   scans a CPU second beside MONAI's transforms
    commands  start, waiting, page, and the fraction of whole commands that is training
    scale     prepare over processes, a step over threads
    gpu       steps on a GPU beside MONAI's networks in bf16 (benchmarks/gpu.sh runs it)

Both sides of a row take turns in one process (A B A B); a ratio is the median of the rounds, with the smallest and the
largest. Above 1, voxmim is faster. Each side has the memory allocator as its programs have it (`timing.as_usual`).
--smoke runs the same at toy size, to see that it works.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib import import_module
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # as voxmim's commands set it, before torch is imported

NAMES = ("step", "finetune", "predict", "crops", "prepare", "commands", "scale", "gpu")


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=(*NAMES, "all"), help="which benchmark; all runs every one but gpu")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="toy sizes and one round")
    options = parser.parse_args(arguments)

    import torch

    from benchmarks.timing import Report
    from voxmim.networks.precision import fast_bfloat16
    from voxmim.workers import keep_memory

    if not fast_bfloat16(torch.device("cuda" if torch.cuda.is_available() else "cpu")):
        print("warning: no instructions for bfloat16 here, so rows in bf16 only show that they run", file=sys.stderr)
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
