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
    """Without line breaks and frames, which fall where the terminal ends."""
    return re.sub(r"[\s│┃]+", " ", text)


def parsed(arguments: Sequence[str]) -> SimpleNamespace:
    """What a command line asks for, without doing it: `command` (the api's function) and each of its arguments."""
    called: list[SimpleNamespace] = []
    with pytest.MonkeyPatch.context() as patch:
        for function in (*(command.function or name for name, command in cli.COMMANDS.items()), "plan"):
            stub(
                patch,
                function,
                lambda function=function, **given: called.append(SimpleNamespace(command=function, **given)),
            )
            patch.setattr(commands, function, lambda result, given: 0, raising=False)
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
    assert not left.value.code
    return called[0]
