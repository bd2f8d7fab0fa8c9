"""What a study is: a question, the arms that answer it, and what its page shows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from voxmim.report.page import Picture, Table
from voxmim.report.plots import Chart
from voxmim.studies.arm import Arm, Comparison
from voxmim.studies.request import Request

LABELS = "0.1"


@dataclass
class Findings:
    """What a study found, in the order of its page."""

    lead: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: Sequence[Chart] = ()
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True)
class Study:
    """One study."""

    title: str  # its question
    arms: Callable[[Request], list[Arm]]  # what is compared
    findings: Callable[[Comparison], Findings]  # what the page shows
    # the arms that are scored on test cases; where that is not all of them, those chosen on validation cases
    tested: Callable[[Comparison], Sequence[Arm]] = attrgetter("arms")
    stores: tuple[int, int] = (1, 1)  # the least and the largest number of stores
    labels: tuple[str, ...] = (LABELS,)  # the default number of labelled cases; several if the study varies it
    recipe: str = "tiny"  # that its arms follow by default
    # arms that depend on what the others took, trained after them
    follow_up: Callable[[Comparison], list[Arm]] | None = None
