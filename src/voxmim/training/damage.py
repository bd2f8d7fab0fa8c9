"""Scans of the store that cannot be read during a training: skipped, named once, too many of them end it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from voxmim.errors import StoreError, TrainingError
from voxmim.store.format import Case
from voxmim.training.run import Run

Read = TypeVar("Read")


@dataclass
class Damage:
    """The scans that one training could not read."""

    scans: int = 0  # that it trains and validates on
    max_fraction: float = 0.0  # of them that may be unreadable
    found: dict[str, str] = field(default_factory=dict)  # what is wrong with each; whoever reads a scan adds to it
    _named: set[str] = field(default_factory=set)

    def readable(self, cases: Sequence[Case], read: Callable[[Case], Read]) -> Iterator[tuple[Case, Read]]:
        """Each case that can be read, and what `read` returns of it."""
        for case in cases:
            if case.name in self.found:
                continue
            try:
                yield case, read(case)
            except StoreError as error:
                self.found[case.name] = str(error)

    def check(self, run: Run, say: Callable[[str], None]) -> None:
        """Name what was found since the last check.

        Raises:
            TrainingError: more than `max_fraction` of the scans cannot be read; names them.
        """
        new = [name for name in self.found if name not in self._named]
        if not new:
            return
        self._named |= set(new)
        for name in new:
            say(f"{name} is skipped from here on: {self.found[name]}")
        allowed = int(self.max_fraction * self.scans)
        if len(self.found) > allowed:
            raise TrainingError(
                f"{run.path}: {len(self.found)} of {self.scans} scans cannot be read ({', '.join(self.found)}), and "
                f"max_damaged {self.max_fraction:g} allows {allowed}; prepare them again and continue with --resume."
            )
