"""A description of this machine, for measurements."""

import os
import platform
import re
from pathlib import Path

import torch

from voxmim.text import counted


def machine() -> str:
    """One line with the GPU, the CPU, its cores, torch's threads, and versions."""
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return (
        f"{gpu}{_cpu()}, {counted(os.cpu_count() or 1, 'core')}, {counted(torch.get_num_threads(), 'torch thread')}, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def _cpu() -> str:
    facts = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.+)", facts.read_text()) if facts.is_file() else []
    return models[0] if models else platform.processor() or platform.machine()
