"""Neural preprocessors of standard codecs (Lu et al., IEEE TCSVT 2024)."""

from vcm.nn.preprocessor.deployment import deployed
from vcm.nn.preprocessor.network import NPP, QuantizationAdaptiveNPP
from vcm.nn.preprocessor.serialization import build_preprocessor, load_preprocessor, save_preprocessor

__all__ = [
    "NPP",
    "QuantizationAdaptiveNPP",
    "build_preprocessor",
    "deployed",
    "load_preprocessor",
    "save_preprocessor",
]
