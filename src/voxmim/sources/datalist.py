"""A list of cases in a file: a CSV table, JSON with the same rows, or a data list of MONAI.

```
case,image,label,split,group         one file of all channels
case,image,label,annotated           annotated labels by name or value, separated by semicolons; empty means all
case,image:T1,image:FLAIR,label      one file per channel, with its name; an empty field is a missing channel
```
Only an image is required. Paths are relative to the list's folder. `split` is train, val, test or unlabelled, `group`
the patient. JSON is a list of such rows as objects, or an object with lists called "training", "validation" and "test"
(or "testing"), in which "image" may be a list of one file per channel, and training cases of "fold" 0 validate; it may
have the keys of a dataset.json: "name", "channel_names", "labels", "regions", "licence".
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from voxmim.errors import SourceError, nearest
from voxmim.images.formats.dicom import is_dicom
from voxmim.images.volume import case_name
from voxmim.sources.dataset_json import describe
from voxmim.sources.jsons import read_json
from voxmim.sources.listing import label_file, names_of
from voxmim.sources.source import SPLITS, Source, SourceCase, annotated_values
from voxmim.text import counted

LIST_ENDINGS = (".csv", ".json")
_COLUMNS = ("case", "image", "label", "split", "group", "annotated")
_SECTIONS = {"training": "", "validation": "val", "test": "test", "testing": "test"}
_CHANNEL = "image:"


class _Row(NamedTuple):
    where: str  # for errors
    fields: dict[str, Any]
    split: str = ""  # of its section


def datalist(file: Path) -> Source:
    """Read the cases of a list; raises SourceError for unknown columns, missing files, or contradictory rows."""
    source = Source(file, file.stem, (), {}, ())
    if file.suffix.lower() == ".csv":
        rows = list(_table(file))
    else:
        values = read_json(file)
        rows = _objects(file, values)
        if isinstance(values, dict):
            unnamed = not {"channel_names", "modality"} & values.keys()
            assumed = {"channel_names": {"0": "image"}} if unnamed else {}
            source = describe(file, {"name": file.stem, "labels": {}, **assumed, **values})
            source = replace(source, channels=()) if unnamed else source
    if not rows:
        raise SourceError(f"{file}: it lists no case; add a row for each.")
    for where, column in ((row.where, column) for row in rows for column in row.fields):
        if column not in _COLUMNS and (not column.startswith(_CHANNEL) or column == _CHANNEL):
            known = f"{', '.join(_COLUMNS)} or {_CHANNEL}NAME of a channel"
            raise SourceError(
                f"{where}: '{column}' is no column ({known}){nearest(column, _COLUMNS) or '; take it out.'}"
            )
    channels = _channels(file, rows, source.channels)
    cases = [_case(file, row, channels, source.labels) for row in rows]
    names = names_of({case.images[0]: case_name(case.images[0]) for case in cases if not case.name}, file.parent)
    cases = [case if case.name else replace(case, name=names[case.images[0]]) for case in cases]
    return replace(source, channels=channels, cases=tuple(cases))


def _table(file: Path) -> Iterator[_Row]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines, strict=True)
            header = [name.strip() for name in next(reader, [])]
            twice = [name for name in header if header.count(name) > 1]
            if twice:
                raise SourceError(f"{file}: column '{twice[0]}' stands there twice; leave it in once.")
            for fields in reader:
                where = f"{file}: line {reader.line_num}"
                if len(fields) not in (0, len(header)):
                    raise SourceError(
                        f"{where} has {counted(len(fields), 'field')} for {counted(len(header), 'column')}; correct it."
                    )
                if fields:
                    yield _Row(where, {name: text.strip() for name, text in zip(header, fields, strict=True)})
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise SourceError(f"{file}: this is no table with commas, in UTF-8 ({error}); save it so.") from None


def _objects(file: Path, values: Any) -> list[_Row]:
    sections = {"cases": values} if isinstance(values, list) else values if isinstance(values, dict) else {}
    sections = {name: rows for name, rows in sections.items() if name in (*_SECTIONS, "cases")}
    if not sections:
        raise SourceError(f'{file}: a list of cases is expected, or an object with "training"; see docs/data.md.')
    found = []
    for name, rows in sections.items():
        if not isinstance(rows, list):
            raise SourceError(f"{file}: '{name}' must be a list of cases; repair the file.")
        split = "train" if name == "training" and sections.get("validation") else _SECTIONS.get(name, "")
        for number, row in enumerate(rows, start=1):
            fields = {"image": row} if isinstance(row, str) else row
            if not isinstance(fields, dict):
                raise SourceError(f"{file}: case {number} of '{name}' must be an object with an image; correct it.")
            if name == "training" and "fold" in fields:
                fields = {"split": "val" if fields["fold"] == 0 else "train", **fields}
                del fields["fold"]
            found.append(_Row(f"{file}: case {number} of '{name}'", fields, split))
    return found


def _channels(file: Path, rows: Sequence[_Row], given: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the channels: from the columns, from the file (`given`), or numbers."""
    columns = tuple(dict.fromkeys(column for row in rows for column in row.fields if column.startswith(_CHANNEL)))
    named = tuple(column.removeprefix(_CHANNEL) for column in columns)
    if named and any("image" in row.fields for row in rows):
        raise SourceError(f"{file}: there is both a column image and {columns[0]}; name one file per channel, or one.")
    if named and given and named != given:
        raise SourceError(f"{file}: its channels are {', '.join(given)}, but its columns {', '.join(columns)}; agree.")
    count = max(len(row.fields.get("image", "")) if isinstance(row.fields.get("image"), list) else 1 for row in rows)
    return named or given or (("image",) if count == 1 else tuple(f"channel {index}" for index in range(count)))


def _case(file: Path, row: _Row, channels: Sequence[str], labels: Mapping[int, str]) -> SourceCase:
    """The case of one row; its name may be empty."""
    fields = {name: value for name, value in row.fields.items() if value not in ("", None)}
    images = fields.get("image", [fields.get(f"{_CHANNEL}{name}") for name in channels])
    images = images if isinstance(images, list) else [images]
    missing = tuple(index for index, image in enumerate(images) if image is None)
    if len(missing) == len(images) or len(images) not in (1, len(channels)):
        count = counted(len(images) - len(missing), "image")
        raise SourceError(f"{row.where} names {count} for {counted(len(channels), 'channel')}; correct it.")
    split, name = fields.get("split", row.split), str(fields.get("case", ""))
    if split not in ("", *SPLITS):
        raise SourceError(
            f"{row.where}: '{split}' is no split ({', '.join(SPLITS)}){nearest(str(split), SPLITS) or '.'}"
        )
    if name.startswith(".") or "/" in name or "\\" in name:
        raise SourceError(f"{row.where}: the case '{name}' cannot be the name of a file; name it otherwise.")
    label = label_file(_file(file, row, fields["label"])) if "label" in fields else None
    if row.split == "test" and label is None and "split" not in fields:
        split = "unlabelled"
    files = tuple(_file(file, row, image) for image in images if image is not None)
    annotated = fields.get("annotated")
    if annotated is not None:
        named = annotated if isinstance(annotated, list) else str(annotated).split(";")
        annotated = annotated_values(named, labels, row.where)
    return SourceCase(name, files, label, split, missing, str(fields.get("group", "")), annotated)


def _file(file: Path, row: _Row, named: object) -> Path:
    path = file.parent / str(named)
    try:
        exists = path.is_file() or is_dicom(path)
    except (OSError, ValueError):  # an invalid name
        exists = False
    if not exists:
        raise SourceError(f"{row.where} names {named}, which is missing; paths are relative to the list's folder.")
    return path
