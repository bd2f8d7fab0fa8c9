"""The precision of a network's computations, chosen by the device."""

import torch

from voxmim.settings import Precision


def chosen_precision(precision: Precision, device: torch.device) -> Precision:
    """The precision of a training: ``auto`` becomes ``bf16`` if the device is fast at it, else ``32``."""
    if precision != "auto":
        return precision
    return "bf16" if fast_bfloat16(device) else "32"


def working_dtype(device: torch.device, precision: str) -> torch.dtype:
    """The dtype for inference on a device, which may differ from the one that trained the network.

    float32 stays float32. Half precision is used only if it saves time: float16 on a GPU, bfloat16 if the device is
    fast at it.
    """
    if precision == "16" and device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if precision != "32" and fast_bfloat16(device) else torch.float32


def fast_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; without them it is many times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not torch.backends.mkldnn.is_available():  # torch without oneDNN has only a plain loop
        return False
    if hasattr(torch.cpu, "get_capabilities"):  # missing in the oldest supported torch
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(probe() for probe in probes if probe is not None)
