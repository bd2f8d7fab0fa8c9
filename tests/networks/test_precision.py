"""What a network computes in: half of float32 only where the device at hand is fast at it."""

from __future__ import annotations

import time

import pytest
import torch

from voxmim.networks import precision
from voxmim.networks.precision import chosen_precision, fast_bfloat16, working_dtype

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("fast", "auto"), [(True, "bf16"), (False, "32")])
@pytest.mark.parametrize("device", [CPU, GPU])
def test_auto_is_bfloat16_where_the_device_is_fast_at_it(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, fast: bool, auto: str
) -> None:
    monkeypatch.setattr(precision, "fast_bfloat16", lambda asked: fast and asked == device)
    assert [chosen_precision(told, device) for told in ("auto", "bf16", "16", "32")] == [auto, "bf16", "16", "32"]


@pytest.mark.parametrize(
    ("device", "fast", "told", "dtype"),
    [
        (CPU, True, "auto", torch.bfloat16),
        (CPU, True, "bf16", torch.bfloat16),
        (CPU, True, "16", torch.bfloat16),  # a CPU has no use for float16
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
def test_a_trained_network_works_in_what_this_device_is_fast_at(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, fast: bool, told: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "fast_bfloat16", lambda _: fast)
    assert working_dtype(device, told) == dtype


def test_a_cpu_that_is_said_to_be_fast_is() -> None:
    def seconds(dtype: torch.dtype) -> float:
        factor = torch.randn(256, 256).to(dtype)
        times = []
        for _ in range(7):
            start = time.process_time()
            factor @ factor
            times.append(time.process_time() - start)
        return min(times)

    slower = seconds(torch.bfloat16) / seconds(torch.float32)
    assert not fast_bfloat16(CPU) or slower < 3, f"bfloat16 takes {slower:.1f} times as long as float32"


@pytest.mark.parametrize(
    ("found", "fast"), [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False)]
)
def test_the_instructions_of_a_cpu_decide(monkeypatch: pytest.MonkeyPatch, found: dict[str, bool], fast: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert fast_bfloat16(CPU) is fast
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not fast_bfloat16(CPU)


@pytest.mark.parametrize("name", ["_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def test_an_older_torch_has_another_query(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for other in ("get_capabilities", "_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, other, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert not fast_bfloat16(CPU)
    monkeypatch.setattr(torch.cpu, name, lambda: True, raising=False)
    assert fast_bfloat16(CPU)


def test_bfloat16_that_a_gpu_only_emulates_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not fast_bfloat16(GPU)
