"""How a Trainer resumes from tensors and plain values alone, in every version of Lightning."""

from inspect import signature

from lightning import Trainer

SAFELY = {"weights_only": True} if "weights_only" in signature(Trainer.fit).parameters else {}
"""Lightning before 2.6 has no such argument."""
