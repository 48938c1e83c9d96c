"""Image compression whose reader is a neural network."""

from importlib.metadata import version

__version__ = version("vcm")
