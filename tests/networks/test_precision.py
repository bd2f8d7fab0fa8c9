"""The precision of a network: 16 bits only where the device is fast at it."""

from __future__ import annotations

import time

import pytest
import torch

from voxmim.networks import precision
from voxmim.networks.precision import chosen_precision, fast_bfloat16, working_dtype

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("fast", "auto"), [(True, "bf16"), (False, "32")])
@pytest.mark.parametrize("device", [CPU, GPU])
def test_auto_is_bfloat16_on_devices_that_are_fast_at_it(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, fast: bool, auto: str
) -> None:
    monkeypatch.setattr(precision, "fast_bfloat16", lambda queried: fast and queried == device)
    precisions = [chosen_precision(requested, device) for requested in ("auto", "bf16", "16", "32")]
    assert precisions == [auto, "bf16", "16", "32"]


@pytest.mark.parametrize(
    ("device", "fast", "requested", "dtype"),
    [
        (CPU, True, "auto", torch.bfloat16),
        (CPU, True, "bf16", torch.bfloat16),
        (CPU, True, "16", torch.bfloat16),  # float16 is of no use on a CPU
        (CPU, True, "32", torch.float32),
        (CPU, False, "auto", torch.float32),
        (CPU, False, "bf16", torch.float32),
        (CPU, False, "16", torch.float32),
        (GPU, False, "bf16", torch.float32),
        (GPU, False, "16", torch.float16),
        (GPU, True, "16", torch.float16),
        (GPU, True, "bf16", torch.bfloat16),
    ],
)
def test_a_trained_network_runs_in_a_precision_that_is_fast_on_the_device(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, fast: bool, requested: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "fast_bfloat16", lambda _: fast)
    assert working_dtype(device, requested) == dtype


@pytest.mark.skipif(not fast_bfloat16(CPU), reason="this CPU has no instructions for bfloat16")
def test_a_cpu_reported_as_fast_at_bfloat16_is_fast() -> None:
    def seconds(dtype: torch.dtype) -> float:
        factor = torch.randn(256, 256).to(dtype)
        times = []
        for _ in range(7):
            start = time.process_time()
            factor @ factor
            times.append(time.process_time() - start)
        return min(times)

    slower = seconds(torch.bfloat16) / seconds(torch.float32)
    assert slower < 3, f"bfloat16 takes {slower:.1f} times as long as float32"


@pytest.mark.parametrize(
    ("capabilities", "fast"), [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False)]
)
def test_bfloat16_is_fast_on_cpus_with_the_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert fast_bfloat16(CPU) is fast
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not fast_bfloat16(CPU)


@pytest.mark.parametrize("name", ["_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def test_older_versions_of_torch_are_queried_in_their_own_way(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for other in ("get_capabilities", "_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, other, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert not fast_bfloat16(CPU)
    monkeypatch.setattr(torch.cpu, name, lambda: True, raising=False)
    assert fast_bfloat16(CPU)


def test_a_gpu_that_only_emulates_bfloat16_does_not_count_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not fast_bfloat16(GPU)
