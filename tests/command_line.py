"""Helpers of the tests of the command line."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest

from voxmim import api


def stub(monkeypatch: pytest.MonkeyPatch, name: str, action: Callable[..., Any]) -> None:
    """Replace a function of the api by another with the same signature and help."""
    real = getattr(api, name)
    monkeypatch.setattr(api, name, functools.wraps(real)(lambda **given: action(**given)))


def flat(text: str) -> str:
    """Without line breaks and frames, which fall where the terminal ends."""
    return re.sub(r"[\s│┃]+", " ", text)
