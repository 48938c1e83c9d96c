"""Learned codecs. Importing this imports no torch."""

from vcm.codecs.learned.codec import FeatureCodec, LearnedCodec

__all__ = ["FeatureCodec", "LearnedCodec"]
