"""Early detection of duplicates by the processes that prepare scans, before resampling.

Each process claims the content of its scan with a small file in the store. A scan is skipped if its content is claimed
by a scan that ranks before it. Claims only save work: the comparison of all cases at the end decides.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from voxmim.doctor.cohort import Rank, duplicate_rank
from voxmim.store.index import Case, write_errors

_KNOWN = ".claim-known.json"  # of the cases in the store; the name matches that of temporary files, to be removed alike


def claim_known(store: Path, cases: Iterable[Case]) -> None:
    """Claim the contents of the cases that are in the store."""
    known = {
        case.facts.content: duplicate_rank(case.name, case.label is not None, case.facts)
        for case in cases
        if case.facts is not None
    }
    with write_errors(store / _KNOWN):
        (store / _KNOWN).write_text(json.dumps(known))


def is_duplicate(store: Path, content: str, rank: Rank) -> bool:
    """Whether this content is claimed by a scan that ranks before `rank`; claims it otherwise."""
    known_file = store / _KNOWN
    known = _read(known_file, known_file.stat().st_mtime_ns)
    if content in known and known[content] < rank:
        return True
    claim = store / f".claim-{content}.json"
    try:
        with claim.open("x") as file:
            json.dump(rank, file)
    except FileExistsError:
        with suppress(OSError, ValueError):  # another process is writing it
            return tuple(json.loads(claim.read_text())) < rank
    except OSError:  # a full disk is reported when the case is written
        claim.unlink(missing_ok=True)
    return False


def release_claims(store: Path) -> None:
    """Remove all claims."""
    for file in store.glob(".claim-*.json"):
        file.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def _read(file: Path, _modified: int) -> dict[str, Rank]:
    return {content: (*map(bool, rank[:2]), rank[2]) for content, rank in json.loads(file.read_text()).items()}
