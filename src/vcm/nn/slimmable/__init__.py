"""Slimmable multi-task codecs (Cao et al., IEEE Access 2023)."""

from vcm.nn.slimmable.factorized import LatentScalable, SlimmableFactorized
from vcm.nn.slimmable.hyperprior import SlimmableHyperprior
from vcm.nn.slimmable.layers import DenseEncoder
from vcm.nn.slimmable.network import MultiTaskNetwork
from vcm.nn.slimmable.search import LatentSearch
from vcm.nn.slimmable.serialization import build_network, load_network, save_network
from vcm.nn.slimmable.types import RECONSTRUCTION, CodecOutput, FeatureMap, Symbols

__all__ = [
    "RECONSTRUCTION",
    "CodecOutput",
    "DenseEncoder",
    "FeatureMap",
    "LatentScalable",
    "LatentSearch",
    "MultiTaskNetwork",
    "SlimmableFactorized",
    "SlimmableHyperprior",
    "Symbols",
    "build_network",
    "load_network",
    "save_network",
]
