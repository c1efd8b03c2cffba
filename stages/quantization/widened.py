"""How many channels make a network as large as another one: one factor on those of all its hidden layers."""

from collections.abc import Callable, Sequence

from stages.quantization.channel_groups import Group, scaled


def scaled_to(groups: Sequence[Group], size: Callable[[dict[str, int]], int], target: int) -> dict[str, int]:
    """So many times the channels of each group, with one factor, that the network's size is nearest to a target.

    Args:
        size: of the network with these numbers of channels, by the names of groups; it grows with each of them.
        target: a size.

    Raises ValueError where the model has no hidden layers.
    """
    if not groups:
        raise ValueError("the model has no hidden layers, expected some to widen")
    below, above = 0.0, 1.0
    while size(scaled(groups, above)) < target:
        below, above = above, 2 * above
    # Factors at which a rounded number of channels changes are further apart than that, or the same.
    resolution = 0.5 / max(group.channels for group in groups) ** 2
    while above - below > resolution:
        middle = (below + above) / 2
        if size(scaled(groups, middle)) < target:
            below = middle
        else:
            above = middle
    return min((scaled(groups, factor) for factor in (below, above)), key=lambda found: abs(size(found) - target))
