"""Layouts of other packages' weights: each file converts one family of networks."""

from collections.abc import Iterable
from dataclasses import replace

from voxmim.weights.layouts import nnunet, primus, segresnet, swin, vit
from voxmim.weights.layouts.layout import Checkpoint, Imported, Layout, Request

LAYOUTS: dict[str, Layout] = {**vit.LAYOUTS, **swin.LAYOUTS, **nnunet.LAYOUTS, **segresnet.LAYOUTS, **primus.LAYOUTS}


def convert(checkpoints: Iterable[Checkpoint], request: Request) -> tuple[str, Imported]:
    """Convert the first group of tensors with a known layout.

    Returns:
        the name of the layout, and the converted encoder.

    Raises:
        ValueError: no group has a known layout, or it does not fit the request or any encoder of ours.
    """
    names: list[str] = []
    for checkpoint in checkpoints:
        names = names or list(checkpoint.tensors)
        for name, layout in LAYOUTS.items():
            prefix = layout.find(checkpoint.tensors)
            if prefix is not None:
                imported = layout.convert(replace(checkpoint, prefix=prefix), request)
                used = {*imported.names.values(), *imported.used}
                imported.unused = [tensor for tensor in checkpoint.tensors if tensor not in used]
                return name, imported
    content = f"it holds {', '.join(names[:3])} and so on" if names else "it holds no named tensors"
    raise ValueError(f"{content}; the known layouts are {', '.join(LAYOUTS)}")
