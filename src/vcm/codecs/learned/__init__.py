"""Learned codecs. Importing this imports no torch."""

from vcm.codecs.learned.codec import FeatureCodec, LearnedCodec
from vcm.codecs.learned.zoo import CompressAICodec

__all__ = ["CompressAICodec", "FeatureCodec", "LearnedCodec"]
