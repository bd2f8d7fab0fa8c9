"""Embeddings of scans: the encoder's bottleneck features, averaged over the body."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

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
from voxmim.store.prepare import PreparedScan
from voxmim.tasks.classification.inference import cut, windows
from voxmim.tasks.given import given_scans
from voxmim.tasks.scans import Progress, for_each
from voxmim.tasks.task import Predictor
from voxmim.weights.load import load_encoder


@dataclass(frozen=True)
class Embeddings:
    """The result of `embed`."""

    file: Path
    scans: int  # number of vectors
    width: int  # of a vector
    neighbours: dict[str, list[tuple[str, float]]]  # see `find_neighbours`
    left_out: list[str]  # the names or paths of scans that could not be used


class Embedder(Predictor):
    """An encoder that turns a prepared scan into one vector."""

    network: Encoder

    @classmethod
    def load(cls, run: Path) -> Self:
        """Load the encoder of a run folder or weights file of any training, onto a GPU if there is one."""
        encoder = load_encoder(run)
        return cls(encoder, encoder.metadata)  # type: ignore[arg-type]

    @torch.no_grad()
    def embed(self, scan: PreparedScan) -> np.ndarray:
        """(width,) float32: the mean of the bottleneck features, weighted by the fraction of body in each cell.

        The fewest windows that cover the scan are used. Without body, the whole scan counts.
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
                volume = volume.transpose(0, 1)  # channels as a batch, as in the training
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                features = self.network.encode(volume).float().mean(dim=0).cpu().double()
            total += (features * cells).sum(dim=(1, 2, 3))
            weight += float(cells.sum())
        return (total / weight).float().numpy()

    def _body(self, scan: PreparedScan) -> Tensor:
        """(1, X, Y, Z) float32 mask of the body: denser than air in CT, not background in MR."""
        is_ct = self.preparation.intensity == "ct"
        body = ((scan.image > BODY_HU) if is_ct else (scan.image != 0)).any(axis=0, keepdims=True)
        return torch.from_numpy((body if body.any() else ~body).astype(np.float32))


def embed(run: Path, scans: Sequence[Path], out: Path, nearest: int = 0, on_case: Progress | None = None) -> Embeddings:
    """Write a Parquet file with the columns ``case`` and ``embedding``; scans that cannot be used are left out.

    See `voxmim.embed` for the arguments.

    Raises:
        WeightsError: there are no weights, or the file name does not end in .parquet.
        SourceError: as `given_scans`.
        ScanError: no scan can be used.
        MissingPackageError: the extra ``export`` is not installed.
    """
    if out.suffix != ".parquet":
        raise WeightsError(f"{out}: the file name must end in .parquet.")
    require("export", "voxmim embed", "pyarrow")
    import pyarrow as pa
    from pyarrow.parquet import write_table

    embedder = Embedder.load(run)
    given, left_out = given_scans(scans, embedder.preparation.channels)
    vectors, failed = for_each(given, lambda name, scan: embedder.embed(embedder.prepare(*scan)), on_case)
    width, about = embedder.network.width, embedder.metadata
    metadata = {key: about[key] for key in ("preparation", "crop", "encoder", "data") if key in about}
    columns = [("case", pa.string()), ("embedding", pa.list_(pa.float32(), width))]
    schema = pa.schema(columns, metadata={"voxmim": json.dumps(metadata)})
    with atomic_write(out) as temporary:
        write_table(pa.table({"case": list(vectors), "embedding": list(vectors.values())}, schema=schema), temporary)
    neighbours = find_neighbours(vectors, nearest) if nearest else {}
    return Embeddings(out, len(vectors), width, neighbours, [*left_out, *failed])


def find_neighbours(vectors: Mapping[str, np.ndarray], count: int) -> dict[str, list[tuple[str, float]]]:
    """The nearest other scans of each scan with the cosine of the two vectors, the nearest first."""
    names, table = list(vectors), np.stack(list(vectors.values()))
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    neighbours = {}
    for i, name in enumerate(names):
        cosines = table @ table[i]
        nearest = [other for other in np.argsort(-cosines, kind="stable")[: count + 1] if other != i][:count]
        neighbours[name] = [(names[other], float(cosines[other])) for other in nearest]
    return neighbours
