"""How a job computes: threads, determinism, device, and the number format of training."""

import os

import torch


def configure(params) -> torch.device:
    """Set threads and determinism as `threads` says, and return the device that `device` names (auto: a GPU if any).

    Call it before any computation: PyTorch fixes its inter-op threads at the first parallel one. TF32 is off, so that
    fp32 means fp32. (Whether a GPU's convolutions are exact on integer codes, as the CPU's are, has not been tried.)
    Raises ValueError if the device is a GPU and there is none.
    """
    threads = params.values["threads"]
    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != threads:  # PyTorch refuses to set it twice
        torch.set_num_interop_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with a fixed workspace
    # As use_deterministic_algorithms(True), which would take as long as importing PyTorch: it imports the compiler.
    torch.set_deterministic_debug_mode("error")
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return _device(params.values["device"])


def training_dtype(params, device: torch.device) -> torch.dtype:
    """The autocast dtype of training that `precision` names (auto: bfloat16 where the hardware computes it)."""
    precision = params.values["precision"]
    if precision == "auto":
        precision = "bf16" if _has_fast_bf16(device) else "fp32"
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("params.yaml: device: 'cuda': expected a GPU that PyTorch can use, found none")
    return torch.device(name)


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
