"""What attacks on memory are after, each told by what is left on test images: the goals that flips are counted to."""

CHANCE = 1.1  # of guessing's accuracy; 11 % for 10 classes (Rakin et al. 2019, arXiv 1903.12269)
TO_CHANCE, TO_HALF, TO_TARGET = GOALS = ("to_chance", "to_half", "to_target")
AIMED = 0.5  # share of the samples aimed at that the target class gets


def guessing(num_classes: int) -> float:
    """The accuracy in [0, 1] at or below which a network of so many classes counts as guessing."""
    return CHANCE / num_classes


def halfway(clean: float, num_classes: int) -> float:
    """The accuracy in [0, 1] at which half of what a network knew is gone: between `clean` and that of guessing.

    Networks that differ in clean accuracy have as far to go to it, by their own measure.
    """
    return (clean + 1 / num_classes) / 2
