"""What a penalty on gradients takes them in: what the layers of a network begin with."""

from torch import Tensor, nn

from stages.models.footprint import FRONT_END


def with_layer_inputs(network: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The logits, and the tensor that the first layer took on the way to them, in which they have gradients.

    inputs: `[N,C,H,W]` in [0,1], which is what the layers of a network begin with, but of sound: of that it is the
    features `[N,1,49,10]`. In the samples of clips, Jacobians of nearly silent ones, where logarithms are steep, are
    larger than all others by powers of ten, and a penalty on the mean would be one on silence.
    """
    began_with = [inputs.detach().requires_grad_()]

    def begin(front_end: nn.Module, arguments: tuple, features: Tensor) -> Tensor:
        began_with.append(features.detach().requires_grad_())
        return began_with[-1]

    front_end = getattr(network, FRONT_END, nn.Identity())
    handle = front_end.register_forward_hook(begin)
    try:
        logits = network(began_with[0])
    finally:
        handle.remove()
    return logits, began_with[-1]
