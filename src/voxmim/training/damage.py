"""Scans of the store that cannot be read any more while a training goes on: left out, counted and named.

A scan that was found damaged is left out to the end of the run, a resumed one included, even if only a part of its
file is damaged. What `found` holds is kept with every checkpoint, so that a resumed run goes on exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from lightning.fabric import Fabric

from voxmim.errors import StoreError, TrainingError
from voxmim.store.format import Case
from voxmim.training.processes import first_process
from voxmim.training.run import Run

Read = TypeVar("Read")


@dataclass
class Damage:
    """The account of one training's damaged scans.

    Attributes:
        trained: the names of the cases that crops are cut from.
        held: the names of the cases that it is validated on.
        most: share of all of them that may be damaged.
        found: what is wrong with each damaged one, by name; whoever reads scans adds to it.
    """

    trained: Sequence[str] = ()
    held: Sequence[str] = ()
    most: float = 0.0
    found: dict[str, str] = field(default_factory=dict)

    def readable(self, cases: Sequence[Case], read: Callable[[Case], Read]) -> Iterator[tuple[int, Case, Read]]:
        """The place, the case and what `read` gives of it, of each case that can be read."""
        for place, case in enumerate(cases):
            if case.name in self.found:
                continue
            try:
                result = read(case)
            except StoreError as error:
                self.found[case.name] = str(error)
            else:
                yield place, case, result

    def held_left(self) -> int:
        """How many cases validations still look at."""
        return sum(name not in self.found for name in self.held)

    def refuse(self, run: Run) -> None:
        """End the training where too many scans are damaged.

        Raises:
            TrainingError: they are more than the share, or no validation scan is left; names them all.
        """
        scans = len(self.trained) + len(self.held)
        allowed = int(self.most * scans)
        if len(self.found) <= allowed and (self.held_left() or not self.held):
            return
        what = ", ".join(text.rpartition("; ")[0] for text in self.found.values())
        why = f"max_damaged {self.most:g} allows {allowed}"
        if len(self.found) <= allowed:
            why = "no validation scan is left"
        raise TrainingError(
            f"{run.path}: {len(self.found)} of {scans} scans cannot be read any more, and {why}: {what}; prepare them "
            "again and --resume, or start anew with a higher max_damaged."
        )

    def meet(self, fabric: Fabric) -> None:
        """Tell all processes what each has found; all must call this."""
        if fabric.world_size > 1:
            for one in [fabric.broadcast(dict(self.found), src=rank) for rank in range(fabric.world_size)]:
                for name, what in one.items():
                    self.found.setdefault(name, what)

    def news(self, run: Run, step: int) -> list[str]:
        """What was found since this was asked last, a line each; it is written into run.json too."""
        told = run.about.get("damaged", {})
        fresh = {name: {"step": step, "what": what} for name, what in self.found.items() if name not in told}
        if not fresh:
            return []
        run.about["damaged"] = {**told, **fresh}
        run.write_about()
        lines = [f"{name} is left out from step {step} on: {entry['what']}" for name, entry in fresh.items()]
        if any(name in self.held for name in fresh):
            lines.append(
                f"Validation figures from step {step} on are of {self.held_left()} of {len(self.held)} scans: do not "
                "compare them with those before; a best step is sought among them alone."
            )
        return lines

    def restore(self, run: Run, found: dict[str, str]) -> None:
        """Go on from a checkpoint: what was found after it will be found again, if it is still so."""
        self.found |= found
        told = run.about.get("damaged", {})
        if told.keys() - found.keys():
            run.about["damaged"] = {name: entry for name, entry in told.items() if name in found}
            if first_process():
                run.write_about()


def damage_in_words(run: Run) -> str:
    """Which scans a run left out and since when; nothing where there is none."""
    entries = run.about.get("damaged", {})
    return "; ".join(f"{name} from step {entry['step']} on ({entry['what']})" for name, entry in entries.items())
