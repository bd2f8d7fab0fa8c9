"""Scans that cannot be read during a training: they are skipped and reported once; too many of them end it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from voxmim.errors import StoreError, TrainingError
from voxmim.store.format import Case
from voxmim.text import counted
from voxmim.training.run import Run

Read = TypeVar("Read")


@dataclass
class Damage:
    """The scans that one training could not read."""

    scans: int = 0  # number of scans to train and validate on
    max_fraction: float = 0.0  # of them that may be unreadable
    errors: dict[str, str] = field(default_factory=dict)  # by case name; added by whatever reads a scan
    _reported: int = 0

    def readable(self, cases: Sequence[Case], read: Callable[[Case], Read]) -> Iterator[tuple[Case, Read]]:
        """Each case that can be read, with the result of `read`."""
        for case in cases:
            if case.name in self.errors:
                continue
            try:
                yield case, read(case)
            except StoreError as error:
                self.errors[case.name] = str(error)

    def check(self, run: Run, say: Callable[[str], None]) -> None:
        """Report the errors since the last check.

        Raises:
            TrainingError: more than `max_fraction` of the scans cannot be read.
        """
        new = list(self.errors.items())[self._reported :]
        if not new:
            return
        self._reported += len(new)
        for name, error in new:
            say(f"{name} is skipped from here on: {error}")
        allowed = int(self.max_fraction * self.scans)
        if len(self.errors) > allowed:
            raise TrainingError(
                f"{run.path}: {len(self.errors)} of {counted(self.scans, 'scan')} cannot be read "
                f"({', '.join(self.errors)}), and max_damaged {self.max_fraction:g} allows {allowed}; prepare them "
                "again and continue with --resume."
            )
