"""LightningModules: what trains the networks."""

from vcm.modules.slimmable import SlimmableModule

__all__ = ["SlimmableModule"]
