"""The definition of a study: a question, the arms that answer it, and the content of its page."""

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
    """The results of a study, in the order of its page."""

    lead: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: Sequence[Chart] = ()
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True)
class Study:
    """One study."""

    title: str  # its question
    arms: Callable[[Request], list[Arm]]
    findings: Callable[[Comparison], Findings]
    # the arms that are scored on test cases: all, or those selected on validation cases
    tested: Callable[[Comparison], Sequence[Arm]] = attrgetter("arms")
    stores: tuple[int, int] = (1, 1)  # the smallest and the largest number of stores
    labels: tuple[str, ...] = (LABELS,)  # the default number of labelled cases; several if the study varies it
    recipe: str = "tiny"  # the default
    # arms that depend on the cost of the others and are trained after them
    follow_up: Callable[[Comparison], list[Arm]] | None = None
