"""A folder as nnU-Net takes its raw data: pairs of folders, and a dataset.json with a ``file_ending``.

```
Dataset001_NAME/dataset.json     channel_names, labels, of which some may be lists of values: then they are regions
Dataset001_NAME/imagesTr         CASE_0000.nii.gz, CASE_0001.nii.gz and so on, one file per channel
Dataset001_NAME/labelsTr         CASE.nii.gz
Dataset001_NAME/imagesTs         further scans, labelled if there is a labelsTs
Dataset001_NAME/splits_final.json  a list of folds, of which the first counts
```
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxmim.errors import SourceError
from voxmim.sources.decathlon import described_pairs
from voxmim.sources.description import Description, describe
from voxmim.sources.source import Source


def nnunet(path: Path, values: Mapping[str, Any]) -> Source:
    """The cases of such a folder; `values` are those of its dataset.json.

    Raises:
        SourceError: dataset.json contradicts itself or the folder.
    """
    return described_pairs(path, values, describe_nnunet(path / "dataset.json", values), numbered=True)


def describe_nnunet(file: Path, values: Mapping[str, Any]) -> Description:
    """Understand the object that nnU-Net's dataset.json holds, in which labels that are lists make all labels regions.

    A label value that is no region of its own is called by its number. The order that nnU-Net writes regions in
    (``regions_class_order``) is not needed here, where a label map is made of what all regions say.

    Raises:
        SourceError: as `describe`, or it has a label 'ignore'.
    """
    labels = values.get("labels")
    if not isinstance(labels, Mapping):
        return describe(file, values)
    if "ignore" in labels:
        raise SourceError(
            f"{file}: the label 'ignore' marks voxels that nobody annotated, which cannot be left out of a training "
            "here; annotate them and remove it."
        )
    if not any(isinstance(value, list) for value in labels.values()):
        return describe(file, values)
    regions = {
        name: value if isinstance(value, list) else [value] for name, value in labels.items() if name != "background"
    }
    parts = [value for region in regions.values() for value in region]
    if not all(type(value) is int for value in parts):
        raise SourceError(f"{file}: a label must be a whole number or a list of them; repair the file.")
    alone = {region[0]: name for name, region in regions.items() if len(region) == 1}
    single = {alone.get(value, f"label {value}"): value for value in sorted(set(parts))}
    return describe(file, {**values, "labels": {"background": 0, **single}, "regions": regions})
