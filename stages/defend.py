"""Trains a float network with a defense: the train stage, whose loss is the defense's."""

from stages.train import run

__all__ = ["run"]
