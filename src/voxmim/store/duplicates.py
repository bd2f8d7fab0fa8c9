"""Duplicates noticed while many processes prepare scans, before they are resampled.

Each process claims the content of its scan with a small file in the store. A scan whose content is claimed by one that
ranks before it need not be prepared. The comparison of all cases at the end decides; claims only save work.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from voxmim.doctor.cohort import Rank, duplicate_rank
from voxmim.store.index import Case, write_errors

_KNOWN = ".claim-known.json"  # of the cases that the store holds; named as the temporary files are, to be removed alike


def claim_known(store: Path, cases: Iterable[Case]) -> None:
    """Claim the contents of the cases that the store at `store` holds."""
    known = {
        case.facts.content: duplicate_rank(case.name, case.label is not None, case.facts)
        for case in cases
        if case.facts is not None
    }
    with write_errors(store / _KNOWN):
        (store / _KNOWN).write_text(json.dumps(known))


def is_duplicate(store: Path, content: str, rank: Rank) -> bool:
    """Whether a scan of this content that ranks before `rank` is claimed; claims it otherwise."""
    known = store / _KNOWN
    if content in (found := _read(known, known.stat().st_mtime_ns)) and found[content] < rank:
        return True
    claim = store / f".claim-{content}.json"
    try:
        with claim.open("x") as file:
            json.dump(rank, file)
    except FileExistsError:
        with suppress(OSError, ValueError):  # its owner is writing it at this moment
            return tuple(json.loads(claim.read_text())) < rank
    except OSError:  # no space: writing the case reports it
        claim.unlink(missing_ok=True)
    return False


def release_claims(store: Path) -> None:
    """Remove all claims."""
    for file in store.glob(".claim-*.json"):
        file.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def _read(file: Path, _modified: int) -> dict[str, Rank]:
    return {content: (*map(bool, rank[:2]), rank[2]) for content, rank in json.loads(file.read_text()).items()}
