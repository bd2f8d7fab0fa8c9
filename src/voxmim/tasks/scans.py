"""The scans of an evaluation or prediction: their source, the order of their channels, and a loop over them."""

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
    """The source of a store's cases, or of a folder or list; without splits of its own it is split by the seed.

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
    """`source_of`, with the splits that weights with this metadata were trained on, folds included."""
    trained, fold = metadata["data"], metadata.get("fold")
    source = source_of(data, trained["seed"])
    if fold is None or source.name != trained.get("name"):
        return source
    return replace(source, cases=tuple(folded(source.cases, fold, source.seed, data)))


def channel_order(needs: Sequence[str], have: Sequence[str], where: Path) -> list[int]:
    """The index in the data (channels `have`) of each channel that a network needs.

    Names are compared without regard to case. Where one side has generic names (``image``, ``channel 0``), or there is
    only one channel, the order is kept.

    Raises:
        SourceError: the names or their number differ.
    """
    present = [name.casefold() for name in have]
    needed = [name.casefold() for name in needs]
    if len(present) == len(needed) and (len(needed) == 1 or _is_generic(present) or _is_generic(needed)):
        return list(range(len(needed)))
    if sorted(present) != sorted(needed):
        raise SourceError(
            f"{where}: its channels are {', '.join(have)}, but the network needs {', '.join(needs)}; give scans of "
            "these channels, named so."
        )
    return [present.index(name) for name in needed]


def _is_generic(names: Sequence[str]) -> bool:
    return all(name in ("image", str(at), f"channel {at}", f"channel_{at}") for at, name in enumerate(names))


def for_each(
    items: Mapping[str, Item], work: Callable[[str, Item], Result], on_case: Progress | None
) -> tuple[dict[str, Result], list[str]]:
    """Run `work` on each item; items that fail are left out with a warning.

    Returns:
        the results by name, and the names of the items that failed.

    Raises:
        VoxmimError: all items failed; this is the first one's error.
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
    for failure in errors.values():
        warn(f"left out: {failure}")
    if on_case is not None:
        on_case(len(items), len(items))
    return results, list(errors)


def labelled_cases(source: Source, split: str) -> tuple[list[SourceCase], list[str]]:
    """The labelled cases of a split, and the names of those left out because they lack a channel.

    Raises:
        StoreError: there is no labelled case.
    """
    labelled = [case for case in source.cases if split in ("all", case.split) and case.label]
    left_out = [case.name for case in labelled if case.missing]
    complete = [case for case in labelled if not case.missing]
    if not complete:
        lacking = f" that has every channel ({len(left_out)} lack one)" if left_out else ""
        raise StoreError(
            f"{source.path}: it has no labelled case{lacking} in the split '{split}'; name another with --split."
        )
    return complete, left_out
