"""The scans that are evaluated or predicted: their order of channels, and the work on them one by one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from voxmim.console import warn
from voxmim.errors import SourceError, StoreError, VoxmimError
from voxmim.sources import Source, SourceCase, open_source
from voxmim.sources.splits import folded
from voxmim.store.format import INDEX, Store

Progress = Callable[[int, int], None]
"""Called with the cases done and their number."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def source_of(data: Path, seed: int) -> Source:
    """The source files of a store's cases, or those of a folder or list; a split is drawn by the seed if there is none.

    Raises:
        StoreError: the store cannot be used.
        SourceError: the source cannot be used.
    """
    if not (data / INDEX).is_file():
        return open_source(data, seed)
    store = Store(data)
    cases = tuple(case.as_source() for case in store.cases.values())
    return Source(data, store.name, store.preparation.channels, store.labels, cases, store.seed, store.regions)


def source_in_fold(data: Path, metadata: Mapping[str, Any]) -> Source:
    """`source_of`, split as the weights with this metadata were trained: their own data set is in their fold."""
    trained, fold = metadata["data"], metadata.get("fold")
    source = source_of(data, trained["seed"])
    if fold is None or source.name != trained.get("name"):
        return source
    return replace(source, cases=tuple(folded(source.cases, fold, source.seed, data)))


def channel_order(known: Sequence[str], have: Sequence[str], where: Path) -> list[int]:
    """For each channel that a network knows, the index of the channel of that name among those of the data.

    Names are compared without regard to case. Where one side has no names of its own (``image``, ``channel 0``), or
    there is only one channel, the order decides.

    Raises:
        SourceError: the names differ, or their number does.
    """
    theirs = [name.casefold() for name in have]
    wanted = [name.casefold() for name in known]
    if len(theirs) == len(wanted) and (len(wanted) == 1 or any(map(_is_generic, (theirs, wanted)))):
        return list(range(len(wanted)))
    if sorted(theirs) != sorted(wanted):
        raise SourceError(
            f"{where}: its channels are {', '.join(have)}, but the network needs {', '.join(known)}; give scans of "
            "these channels, named so."
        )
    return [theirs.index(name) for name in wanted]


def _is_generic(names: Sequence[str]) -> bool:
    return all(name in ("image", str(at), f"channel {at}", f"channel_{at}") for at, name in enumerate(names))


def for_each(
    items: Mapping[str, Item], work: Callable[[str, Item], Result], on_case: Progress | None
) -> tuple[dict[str, Result], list[str]]:
    """The result of each item by its name, and the names of those that failed; what is wrong with them is printed.

    Raises:
        VoxmimError: all of them failed; the first one's error.
    """
    results: dict[str, Result] = {}
    errors: dict[str, VoxmimError] = {}
    for done, (name, item) in enumerate(items.items()):
        if on_case is not None:
            on_case(done, len(items))
        try:
            results[name] = work(name, item)
        except VoxmimError as error:
            errors[name] = error
    if errors and not results:
        raise next(iter(errors.values()))
    for left_out in errors.values():
        warn(f"left out: {left_out}")
    if on_case is not None:
        on_case(len(items), len(items))
    return results, list(errors)


def labelled_cases(source: Source, split: str) -> tuple[list[SourceCase], list[str]]:
    """The labelled cases of a split, and the names of those left out because they lack a channel.

    Raises:
        StoreError: there is none.
    """
    labelled = [case for case in source.cases if split in ("all", case.split) and case.label]
    left_out = [case.name for case in labelled if case.missing]
    found = [case for case in labelled if not case.missing]
    if not found:
        lacking = f" that has every channel ({len(left_out)} lack one)" if left_out else ""
        raise StoreError(
            f"{source.path}: it has no labelled case{lacking} in the split '{split}'; name another with --split."
        )
    return found, left_out
