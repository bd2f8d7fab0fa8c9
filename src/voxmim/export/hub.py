"""Weights as a folder for Hugging Face's hub: safetensors, config.json and a model card."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save

from voxmim.errors import WeightsError
from voxmim.export.exported import Exported
from voxmim.files import atomic_folder
from voxmim.tasks.segmentation.structures import Structures
from voxmim.weights.card import model_card
from voxmim.weights.files import MODEL, find_weights, kind_of, read_weights

_PIPELINES = {
    "segmentor": "image-segmentation",
    "classifier": "image-classification",
    "regressor": "other",
    "encoder": "image-feature-extraction",
}
_LICENCES = {  # the hub's names, by letters and digits only
    re.sub(r"[^a-z0-9]", "", name): name
    for name in ("apache-2.0", "mit", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
                 "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0")
}  # fmt: skip


def export_hub(run: Path, out: Path) -> Exported:
    """Write ``model.safetensors``, ``config.json`` and ``README.md`` into a new folder; nothing is uploaded.

    The weights are the segmentor, classifier, regressor or encoder of a run. voxmim can use the folder like a run.

    Raises:
        WeightsError: there are no weights, or the folder is not empty.
    """
    kind = kind_of(run)
    tensors, metadata = read_weights(find_weights(run, kind), kind)
    with atomic_folder(out, WeightsError(f"{out}: it exists already; name a new folder.")) as folder:
        text = json.dumps(metadata)
        (folder / MODEL).write_bytes(save(tensors, metadata={"format": "pt", "voxmim": text}))
        (folder / "config.json").write_text(json.dumps(config(metadata), indent=2))
        head = yaml.safe_dump(card_head(metadata), sort_keys=False, allow_unicode=True)
        (folder / "README.md").write_text(f"---\n{head}---\n\n{model_card(MODEL, metadata)}", encoding="utf-8")
    return Exported(f"the {kind} as a folder for Hugging Face's hub", f"hf upload USER/NAME {out}")


def config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of weights, with labels in the entries of the hub's tools."""
    names: dict[int, str] = {}
    if metadata["kind"] == "segmentor":
        names = dict(enumerate(Structures.from_metadata(metadata).names))
    elif metadata["kind"] == "classifier":
        names = dict(enumerate(metadata["classes"]))
    labels = {"id2label": names, "label2id": {name: i for i, name in names.items()}} if names else {}
    return {"model_type": "voxmim", **labels, **metadata}


def card_head(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The YAML header of a model card, with licence, task and tags."""
    data = metadata.get("data", {})
    licence = data.get("licence") or ""
    known = _LICENCES.get(re.sub(r"[^a-z0-9]", "", licence.lower()))
    slug = re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-") or "unknown"
    named = {"license": known} if known else {"license": "other", "license_name": slug}
    tags = ["voxmim", "medical", "3d", metadata["preparation"]["intensity"], metadata.get("encoder", "vit")]
    return {**named, "library_name": "voxmim", "pipeline_tag": _PIPELINES[metadata["kind"]], "tags": tags}
