"""Segmentors as ONNX files, with metadata on the preparation of scans and the labels of the outputs."""

import json
import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from voxmim.errors import WeightsError, require
from voxmim.export.comparison import example, input_shape, largest_difference, load_contiguous
from voxmim.export.exported import Exported, no_counterpart
from voxmim.files import atomic_write
from voxmim.tasks.segmentation.predict import CLEANED
from voxmim.tasks.segmentation.structures import Structures

_KEPT = ("preparation", "window", "crop", "overlap", CLEANED, "data", "versions")  # of the metadata


def export_onnx(run: Path, out: Path) -> Exported:
    """Write the network of a segmentor as a ``.onnx`` file, and compare it with torch in ONNX Runtime.

    Its input ``volume`` is (B, C, *crop) float32, windowed as in training; its output ``logits`` is (B, K, *crop)
    float32. The entry ``voxmim`` of the file's metadata is JSON: preparation, window, crop, overlap, labels, values,
    regions, and the labels whose small components `predict` removes.

    Raises:
        WeightsError: there is no segmentor, a part of it has no counterpart in ONNX, or the file name is not .onnx.
        MissingPackageError: the extra ``export`` is not installed.
    """
    if out.suffix != ".onnx":
        raise WeightsError(f"{out}: the file name must end in .onnx.")
    require("export", "--to onnx", "onnx", "onnxscript", "onnxruntime")
    network, metadata = load_contiguous(run)
    shape = input_shape(metadata)
    try:
        program = _program(network, shape)
    except torch.onnx.OnnxExporterError as error:
        raise no_counterpart(run, "ONNX", error.__cause__ or error) from None
    about = {key: metadata[key] for key in _KEPT if key in metadata} | Structures.from_metadata(metadata).metadata()
    program.model.metadata_props["voxmim"] = json.dumps(about)
    with atomic_write(out) as temporary:
        program.save(temporary)
        difference = _difference(temporary, network, shape)
    usage = f"python examples/predict_onnx.py {out} SCAN --out labels"
    return Exported("the segmentor for ONNX Runtime", usage, difference)


def _program(network: nn.Module, shape: tuple[int, ...]) -> torch.onnx.ONNXProgram:
    """The exported network for volumes (B, *shape) with any B."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the exporter's own code
        program = torch.onnx.export(
            network,
            (example(shape),),
            dynamo=True,
            verbose=False,
            input_names=["volume"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    assert program is not None
    return program


def _difference(file: Path, network: nn.Module, shape: tuple[int, ...]) -> float:
    """The largest absolute difference of the logits to torch's."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def exported(volume: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(["logits"], {"volume": volume.numpy()})[0])

    return largest_difference(exported, network, shape)
