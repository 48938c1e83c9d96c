"""FeatureCodec: an interface, and under the name that vcm 0.1 gave it still the slimmable one."""

import copy
import pickle

import pytest
import torch

from vcm.codecs import FeatureCodec, SlimmableFeatureCodec
from vcm.nn.slimmable import FeatureMap, SlimmableFactorized


def network():
    torch.manual_seed(0)
    features = {"detection": FeatureMap(2, 8)}
    return SlimmableFactorized({"detection": 4, "reconstruction": 6}, features=features)


def test_the_former_name_makes_the_slimmable_codec_and_says_so():
    with pytest.warns(DeprecationWarning, match="Use vcm.codecs.SlimmableFeatureCodec"):
        codec = FeatureCodec(model=network(), task="detection")
    assert type(codec) is SlimmableFeatureCodec
    assert codec.settings() == SlimmableFeatureCodec(model=network(), task="detection").settings()
    assert codec.feature_map == FeatureMap(2, 8)
    x = torch.rand(1, 3, 32, 32)
    assert codec.encode(x, (32, 32)) == SlimmableFeatureCodec(model=network()).encode(x, (32, 32))


def test_an_own_codec_needs_the_three_methods_alone():
    class Raw(FeatureCodec):
        name, title, suffix = "raw", "Raw", ".raw"

        def __init__(self, quality=1, *, scale=2.0):
            self.quality, self.scale = quality, scale

        @property
        def feature_map(self):
            return FeatureMap(3, 1)

        def encode(self, x, size, on_step=None):
            return pickle.dumps((x, size))

        def decode(self, data):
            return pickle.loads(data)

    codec = copy.deepcopy(Raw(3, scale=4.0))
    assert codec.settings() == {"name": "raw", "quality": 3, "scale": 4.0, "implementation": ""}
    assert repr(codec) == "Raw(quality=3, scale=4.0)"
    assert (codec.effort, codec.objective, codec.guides, codec.unavailable()) == (0, None, (), "")

    class Half(FeatureCodec):
        def decode(self, data):
            return data

    with pytest.raises(TypeError, match="abstract"):
        Half()
