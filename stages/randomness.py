"""What is random about a classifier, made a matter of names.

A random classifier (`stochastic`) has a method `reseed(seed)`: what it draws from there on depends on the seed and on
what it is asked. Attackers and judges seed it by different purposes, so that a success that only the attacker's draws
gave is none for the judge.
"""

from stages.classifier import Classifier


def reseed(classifier: Classifier, seed: int) -> None:
    """Seed the draws of a random classifier; others draw nothing."""
    if classifier.stochastic:
        classifier.reseed(seed)
