"""The paper's questions as experiments."""

from __future__ import annotations

from voxmim.studies.demo import demo
from voxmim.studies.study import study

__all__ = ["demo", "study"]
