"""The benchmarks run, and write their ratios by row; at toy size."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = {
    "step": "MAE p16 batch 8, deep decoder",
    "finetune": "UNETR step against MONAI in bf16",
    "predict": "prediction against MONAI in bf16",
    "crops": "crops against PersistentDataset",
    "prepare": "prepare against MONAI's transforms",
}
