"""Reading JSON files that users write."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from voxmim.errors import SourceError


def read_json(file: Path) -> Any:
    """Read a JSON file; raises SourceError if it is not valid, or has a key twice."""
    try:
        return json.loads(file.read_text("utf-8"), object_pairs_hook=_with_unique_keys)
    except (ValueError, OSError, RecursionError) as error:
        raise SourceError(f"{file}: this is not valid JSON ({error}); repair the file.") from None


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object; raises SourceError as `read_json`, or where the file holds something else."""
    values = read_json(file)
    if not isinstance(values, dict):
        raise SourceError(
            f"{file}: a JSON object is expected, but it holds a {type(values).__name__}; repair the file."
        )
    return values


def _with_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises ValueError for a key that occurs twice, which Python would silently overwrite."""
    key, count = Counter(key for key, _ in pairs).most_common(1)[0] if pairs else ("", 0)
    if count > 1:
        raise ValueError(f"the key '{key}' stands {count} times in one object")
    return dict(pairs)
