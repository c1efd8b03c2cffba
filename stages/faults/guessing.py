"""When flips have made a network as good as guessing."""

CHANCE = 1.1  # of guessing's accuracy; 11 % for 10 classes (Rakin et al. 2019, arXiv 1903.12269)


def guessing(num_classes: int) -> float:
    """The accuracy in [0, 1] at or below which a network of so many classes counts as guessing."""
    return CHANCE / num_classes
