"""What a step of quantization-aware training costs: `python benchmarks/qat.py`.

Printed is a Markdown table with the CPU time of one training step (forward, backward, no optimizer) of `resnet8` on a
batch of 128 images of 3x32x32, one thread, beside that of the float network: with Brevitas' own quantizers and with
those of the project, in both precisions of training. All networks take turns; the medians of the steps are compared.
"""

import argparse
import statistics
from functools import partial
from time import process_time

import torch
import torch.nn.functional as F
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat, Uint8ActPerTensorFloat
from torch import nn

from stages.models import resnet8
from stages.models.layers import FloatLayers
from stages.quantization import brevitas_layers
from stages.quantization.brevitas_layers import BrevitasLayers
from stages.quantization.calibrate import calibrate
from stages.quantization.formats import Format

SHAPE, CLASSES, BATCH_SIZE = (3, 32, 32), 10, 128
MEAN, STD = (128 / 255,) * 3, 0.25
FORMATS = {
    "w8a8": Format(8, 8),
    "w4a4": Format(4, 4),
    "w2a2": Format(2, 2),
    "ternary, 2 bits": Format("ternary", 2),
    "stochastic ternary, 2 bits": Format("stochastic_ternary", 2),
    "w1a1": Format(1, 1),
}


class PeerLayers(BrevitasLayers):
    """The same layers with Brevitas' default quantizers."""

    def _weights(self, edge: bool) -> dict:
        bits = self.format.edge_bits if edge else self.format.weight_bits
        return {"weight_quant": Int8WeightPerChannelFloat, "weight_bit_width": bits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=21, help="of each network, the first not counted")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inputs = torch.rand(BATCH_SIZE, *SHAPE).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (BATCH_SIZE,))
    make = partial(resnet8.network, input_shape=SHAPE, num_classes=CLASSES)
    networks = {"float": make(FloatLayers(MEAN, STD))}
    networks |= {name: make(BrevitasLayers(MEAN, STD, format)) for name, format in FORMATS.items()}
    brevitas_layers.UnsignedActivations = Uint8ActPerTensorFloat
    brevitas_layers.SignedActivations = Int8ActPerTensorFloat
    networks |= {f"Brevitas' own {name}": make(PeerLayers(MEAN, STD, FORMATS[name])) for name in ("w8a8", "w4a4")}
    for name, network in networks.items():
        if name != "float":
            calibrate(network, [inputs])
        network.to(memory_format=torch.channels_last).train()

    columns = {"fp32": torch.float32, "bf16": torch.bfloat16}
    times = {precision: {name: [] for name in networks} for precision in columns}
    for _ in range(options.steps):
        for precision, dtype in columns.items():
            for name, network in networks.items():
                times[precision][name].append(step(network, inputs, labels, dtype))

    print("| network | fp32, CPU ms | relative | bf16, CPU ms | relative |\n|---|---|---|---|---|")
    medians = {precision: {name: statistics.median(s[1:]) for name, s in of.items()} for precision, of in times.items()}
    for name in networks:
        cells = [
            f"{1000 * medians[precision][name]:.0f} | {medians[precision][name] / medians[precision]['float']:.2f}"
            for precision in columns
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def step(network: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype) -> float:
    """The CPU time of one step in seconds."""
    start = process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = F.cross_entropy(network(inputs), labels)
    for parameter in network.parameters():
        parameter.grad = None
    loss.backward()
    return process_time() - start


if __name__ == "__main__":
    main()
