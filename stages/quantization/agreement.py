"""Whether a frozen network and the ONNX model that was exported of it say the same, sample by sample."""

from collections.abc import Sequence

import onnxruntime
import torch
from torch import Tensor


class RuntimeNetwork:
    """An ONNX model as ONNX Runtime runs it on the CPU, with the optimisations that it has by default.

    But for one: without AVX512-VNNI its kernels of 8 bits add two products in 16 bits, and cut what does not fit.
    """

    def __init__(self, model: bytes, threads: int):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.x64quantprecision", "1")  # nothing is cut
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        (self._input,) = (given.name for given in self._session.get_inputs())

    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits `[N, classes]` of inputs `[N, C, H, W]` on any device, on the CPU."""
        (logits,) = self._session.run(None, {self._input: inputs.cpu().contiguous().numpy()})
        return torch.from_numpy(logits)


def disagreements(frozen: Tensor, exported: Tensor, samples: Sequence[int]) -> list[dict[str, int | float]]:
    """The samples of which two networks predict different classes, with the margin that each has.

    frozen, exported: logits `[N, classes]`. samples: what the N rows are called. A margin is the difference of a
    network's two largest logits: a small one says that it was a close call.
    """
    different = (frozen.argmax(1) != exported.argmax(1)).nonzero().flatten()
    return [
        {
            "sample": int(samples[row]),
            "frozen": int(frozen[row].argmax()),
            "exported": int(exported[row].argmax()),
            "frozen_margin": _margin(frozen[row]),
            "exported_margin": _margin(exported[row]),
        }
        for row in different.tolist()
    ]


def _margin(logits: Tensor) -> float:
    first, second = logits.topk(2).values.tolist()
    return first - second
