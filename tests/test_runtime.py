"""Threads, determinism, device and precision, as params.yaml asks for them."""

from types import SimpleNamespace

import pytest
import torch

from stages.runtime import configure, training_dtype

CPU = torch.device("cpu")


def params(**values):
    return SimpleNamespace(values={"device": "cpu", "precision": "auto", "threads": 1} | values)


def test_threads_and_determinism_are_set_and_can_be_set_again():
    torch.set_deterministic_debug_mode("default")
    assert configure(params()) == configure(params()) == CPU
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()


def test_auto_is_a_gpu_if_any(monkeypatch):
    assert configure(params(device="auto")).type == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert configure(params(device="auto")).type == "cuda"


def test_a_missing_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^params\.yaml: device: 'cuda': expected a GPU .*, found none$"):
        configure(params(device="cuda"))


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)],
)
def test_automatic_precision_is_bfloat16_where_the_cpu_computes_it(monkeypatch, capabilities, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert training_dtype(params(), CPU) == dtype


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_named_precision_is_taken(precision, dtype):
    assert training_dtype(params(precision=precision), CPU) == dtype
