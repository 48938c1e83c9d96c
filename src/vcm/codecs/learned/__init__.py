"""Learned codecs. Importing this imports no torch."""

from vcm.codecs.learned.codec import LearnedCodec, SlimmableFeatureCodec
from vcm.codecs.learned.zoo import CompressAICodec

__all__ = ["CompressAICodec", "LearnedCodec", "SlimmableFeatureCodec"]
