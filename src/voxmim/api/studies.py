"""The paper's questions as experiments."""

from __future__ import annotations

from voxmim.studies.demo import demo

__all__ = ["demo"]
