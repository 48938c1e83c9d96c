"""Learned codecs. Does not import torch."""

from vcm.codecs.learned.codec import LearnedCodec, SlimmableFeatureCodec
from vcm.codecs.learned.zoo import CompressAICodec

__all__ = ["CompressAICodec", "LearnedCodec", "SlimmableFeatureCodec"]
