"""Model cards (arXiv 1810.03993) of weights files."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from voxmim.files import write_text

CARD = "MODEL_CARD.md"

_PREDICT = ("voxmim.predict('.', [SCAN], 'predictions')", "voxmim predict . SCAN --out predictions")
_KINDS = {  # title, call in Python, command
    "encoder": ("A pre-trained encoder", "voxmim.load_encoder({file!r})", "voxmim finetune STORE OUT --init ."),
    "segmentor": ("A segmentation network", *_PREDICT),
    "regressor": ("A network that predicts a number", *_PREDICT),
    "classifier": ("A classification network", *_PREDICT),
}


def write_card(weights: Path, metadata: Mapping[str, Any]) -> None:
    """Write ``MODEL_CARD.md`` beside an encoder, segmentor or classifier; other weights get none."""
    if metadata["kind"] in _KINDS:
        write_text(weights.with_name(CARD), model_card(weights.name, metadata))


def model_card(file: str, metadata: Mapping[str, Any]) -> str:
    """The card as Markdown: data and licence, preparation, settings, figures if known, how to load."""
    title, call, command = _KINDS[metadata["kind"]]
    sections = {
        "Data and licence": _data(metadata),
        "What a scan must be like": _preparation(metadata),
        "Network and training": _network(metadata),
        "Figures": metadata.get("figures", {}).items(),
    }
    lines = [f"# {metadata['kind'].capitalize()}", "", f"{title} of 3D scans: `{file}`, written by voxmim."]
    for heading, rows in sections.items():
        table = [f"| {name} | {value} |" for name, value in rows]
        if table:
            lines += ["", f"## {heading}", "", "| | |", "|---|---|", *table]
    python = ["```python", "import voxmim", call.format(file=file), "```"]
    lines += ["", "## How to load", "", "In this folder:", "", *python, "", "```", command, "```"]
    lines += ["", "Not a medical device: check the results on your own scans before any use."]
    return "\n".join(lines) + "\n"


def _data(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    data = metadata.get("data", {})
    yield "data set", data.get("name") or "unknown"
    whose = "weights" if metadata.get("imported") else "data"
    yield f"licence of the {whose}", data.get("licence") or "unknown: ask where they come from"
    if imported := metadata.get("imported"):
        yield "imported from", f"{imported['file']} (layout {imported['naming']}, BLAKE2 {imported['digest']})"
        for name in ("network", "source", "citation"):
            if imported.get(name):
                yield name, imported[name]
    start = metadata.get("init")
    while start:
        yield "started from", f"{start['file']}, licence: {start.get('data', {}).get('licence') or 'unknown'}"
        start = start.get("init")


def _preparation(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    preparation = metadata["preparation"]
    yield "orientation", "RAS+"
    yield "voxel size", " x ".join(f"{size:g}" for size in preparation["spacing"]) + " mm"
    if preparation["intensity"] == "ct":
        low, high = metadata["window"]
        yield "intensity", f"CT, {low:g} to {high:g} HU become 0 to 1"
    else:
        yield "intensity", "MR, z-score over the foreground of each channel"
    yield "channels", ", ".join(metadata.get("inputs", preparation["channels"]))
    yield "crop", " x ".join(map(str, metadata["crop"])) + " voxels"


def _network(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    kind = metadata.get("encoder", "vit")
    settings = [f"{name} {value}" for name, value in metadata[kind].items() if value is not None]
    yield "encoder", f"{kind} ({', '.join(settings)})"
    if labels := metadata.get("labels") or metadata.get("classes"):
        yield "labels", ", ".join(labels.values() if isinstance(labels, Mapping) else labels)
    for name in ("pretext", "step", "seed"):
        if name in metadata:
            yield name, str(metadata[name])
    yield "versions", ", ".join(f"{name} {number}" for name, number in metadata.get("versions", {}).items())
