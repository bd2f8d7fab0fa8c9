"""Helpers of the tests of the command line."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from voxmim import api, cli, commands


def stub(monkeypatch: pytest.MonkeyPatch, name: str, action: Callable[..., Any]) -> None:
    """Replace a function of the api by another with the same signature and help."""
    real = getattr(api, name)
    monkeypatch.setattr(api, name, functools.wraps(real)(lambda **given: action(**given)))


def flat(text: str) -> str:
    """Remove line breaks and table frames, which depend on the width of the terminal."""
    return re.sub(r"[\s│┃]+", " ", text)


def parsed(arguments: Sequence[str]) -> SimpleNamespace:
    """Parse a command line without running it: `command` (the function of the api) and each of its arguments."""
    called: list[SimpleNamespace] = []
    with pytest.MonkeyPatch.context() as patch:
        for function in (*(command.function or name for name, command in cli.COMMANDS.items()), "plan"):
            stub(
                patch,
                function,
                lambda function=function, **given: called.append(SimpleNamespace(command=function, **given)),
            )
            patch.setattr(commands, function, lambda result, given: 0, raising=False)
        with pytest.raises(SystemExit) as exit_info:
            cli.main(arguments)
    assert not exit_info.value.code
    return called[0]
