"""One vector a scan: the encoder's bottleneck features, averaged over the body."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from voxmim.errors import WeightsError, require
from voxmim.files import atomic_write
from voxmim.images.intensity import BODY_HU
from voxmim.networks.base import Encoder
from voxmim.networks.build import ANY, described_inputs
from voxmim.networks.precision import working_dtype
from voxmim.sources import channel_files
from voxmim.store.prepare import PreparedScan
from voxmim.tasks.classification.inference import cut, windows
from voxmim.tasks.scans import Progress, for_each, scan_files
from voxmim.tasks.task import Predictor
from voxmim.weights.files import holds
from voxmim.weights.load import load_classifier, load_encoder, load_regressor, load_segmentor

_ROWS = 256  # that are held before they are written
_FINE_TUNED = {"segmentor": load_segmentor, "classifier": load_classifier, "regressor": load_regressor}


@dataclass(frozen=True)
class Embeddings:
    """What `embed` has written.

    Attributes:
        file: the Parquet file.
        scans: how many it holds.
        width: of a vector.
        neighbours: (name, cosine) of the nearest scans by the name of each scan, the nearest first.
    """

    file: Path
    scans: int
    width: int
    neighbours: dict[str, list[tuple[str, float]]]


class Embedder(Predictor):
    """An encoder that turns a prepared scan into one vector."""

    network: Encoder

    @classmethod
    def load(cls, run: Path) -> Embedder:
        """The encoder of a pre-training or a fine-tuning, a run folder or a weights file; onto a GPU if there is one.

        Raises:
            WeightsError: there are no such weights.
        """
        for kind, load in _FINE_TUNED.items():
            if holds(run, kind):
                network, metadata = load(run)
                return cls(cast(Encoder, network.encoder), metadata)
        encoder = load_encoder(run)
        return cls(encoder, encoder.metadata)  # type: ignore[arg-type]

    @torch.no_grad()
    def embed(self, scan: PreparedScan) -> np.ndarray:
        """(width,) float32: the mean of the bottleneck features over the windows' cells, weighted by the body in them.

        The windows cover the scan, as few as can be. A scan without body counts as a whole.
        """
        device = next(self.network.parameters()).device
        dtype = working_dtype(device, self.metadata.get("precision", "auto"))
        image, mask = self.image(scan), self._body(scan)
        total, weight = torch.zeros(self.network.width, dtype=torch.float64), 0.0
        for start in windows(scan.grid.shape, self.crop):
            cells = functional.avg_pool3d(cut(mask, start, self.crop)[None], self.network.stride)[0, 0].double()
            if not cells.any():
                continue
            volume = cut(image, start, self.crop)[None].to(device)
            if described_inputs(self.metadata) == [ANY]:
                volume = volume.transpose(0, 1)  # channels one by one, as in the training
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                features = self.network.encode(volume).float().mean(dim=0).cpu().double()
            total += (features * cells).sum(dim=(1, 2, 3))
            weight += float(cells.sum())
        return (total / weight).float().numpy()

    def _body(self, scan: PreparedScan) -> Tensor:
        """(1, X, Y, Z) float32, 1 in the body: denser than air in CT, not background in MR."""
        is_ct = self.preparation.intensity == "ct"
        body = ((scan.image > BODY_HU) if is_ct else (scan.image != 0)).any(axis=0, keepdims=True)
        return torch.from_numpy((body if body.any() else ~body).astype(np.float32))


def embed(run: Path, scans: Sequence[Path], out: Path, nearest: int = 0, on_case: Progress | None = None) -> Embeddings:
    """Write one row a scan, ``case`` and ``embedding``, as Parquet; a scan that cannot be used is named and left out.

    Args:
        run: a run folder or weights file.
        scans: as in `voxmim.tasks.segmentation.predict.predict`.
        out: a ``.parquet`` file, which appears complete or not at all.
        nearest: how many neighbours to find for each scan, by the cosine of the vectors; 0 finds none.
        on_case: called with the scans done and their number.

    Raises:
        WeightsError: there are no weights, or another file name.
        SourceError: no scan was found, or two have the same name.
        ScanError: no scan can be used.
        MissingPackageError: the extra ``export`` is not installed.
    """
    if out.suffix != ".parquet":
        raise WeightsError(f"{out}: the file name must end in .parquet.")
    require("export", "voxmim embed", "pyarrow")
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    embedder = Embedder.load(run)
    width = embedder.network.width
    kept = {
        key: embedder.metadata[key] for key in ("preparation", "crop", "encoder", "data") if key in embedder.metadata
    }
    schema = pa.schema(
        [("case", pa.string()), ("embedding", pa.list_(pa.float32(), width))], metadata={"voxmim": json.dumps(kept)}
    )
    rows: list[dict[str, Any]] = []
    with atomic_write(out) as temporary:
        with ParquetWriter(temporary, schema) as writer:

            def write(minimum: int) -> None:
                if len(rows) >= minimum:
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                    rows.clear()

            def add(name: str, images: Sequence[Path]) -> None:
                rows.append({"case": name, "embedding": embedder.embed(embedder.prepare(images))})
                write(_ROWS)

            files = channel_files(scan_files(scans), len(embedder.preparation.channels))
            done, _ = for_each(files, add, on_case)
            write(1)
        neighbours = find_neighbours(temporary, nearest) if nearest else {}
    return Embeddings(out, len(done), width, neighbours)


def find_neighbours(file: Path, count: int) -> dict[str, list[tuple[str, float]]]:
    """The nearest scans of each scan of a Parquet file, itself left out, with the cosine of the two vectors."""
    from pyarrow.parquet import read_table

    table = read_table(file)
    names = table["case"].to_pylist()
    vectors = np.stack(table["embedding"].to_numpy())
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = {}
    for at, (name, vector) in enumerate(zip(names, vectors, strict=True)):
        cosines = vectors @ vector
        order = [other for other in np.argsort(-cosines, kind="stable")[: count + 1] if other != at][:count]
        found[name] = [(names[other], float(cosines[other])) for other in order]
    return found
