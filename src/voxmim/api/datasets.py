"""Public data sets: what there is, and how one comes here."""

from __future__ import annotations

from voxmim.datasets.download import data_sets, download

__all__ = ["data_sets", "download"]
