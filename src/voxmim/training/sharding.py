"""Networks that several processes share out (fsdp): each holds a part of every weight, gradient and optimiser state."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from lightning.fabric import Fabric
from lightning.fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def is_shared_out(fabric: Fabric) -> bool:
    """Whether each process holds but a part of the network."""
    return isinstance(fabric.strategy, ModelParallelStrategy)


def to_be_trained(fabric: Fabric, network: nn.Module) -> nn.Module:
    """The network, or its copy that is to be shared out: the network itself stays whole, to validate and to save."""
    return copy.deepcopy(network) if is_shared_out(fabric) else network


def shard(network: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Share a network out; a step gathers the weights of one of its encoder's layers at a time."""
    encoder: Any = getattr(network, "encoder", None)
    for names in getattr(encoder, "layers", []):
        for name in names:
            fully_shard(encoder.get_submodule(name), mesh=mesh["data_parallel"])
    fully_shard(network, mesh=mesh["data_parallel"])
    return network


def gather(state: Any) -> Any:
    """Nested dicts and lists with every shared-out tensor whole, on every process; all of them must call this."""
    if isinstance(state, Mapping):
        return {key: gather(value) for key, value in state.items()}
    if isinstance(state, list):
        return [gather(value) for value in state]
    return state.full_tensor() if isinstance(state, DTensor) else state


def share_like(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, shared out as another of its shape is."""
    return distribute_tensor(whole, like.device_mesh, like.placements) if isinstance(like, DTensor) else whole


def share_optimiser(state: Mapping[str, Any], parameters: list[nn.Parameter]) -> dict[str, Any]:
    """An optimiser's whole state, shared out as its parameters are, which come in the order of its groups."""
    own = {
        number: {key: share_like(v, parameters[number]) if v.ndim else v for key, v in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": own}
