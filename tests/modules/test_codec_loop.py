"""The codec in a training step: what goes in, what is counted, and whose proxy it takes."""

from functools import partial

import pytest
import torch

from vcm.codecs import JPEGCodec
from vcm.errors import ArgumentError, CodecError
from vcm.modules import ProxyImitationModule
from vcm.modules.codec_loop import CodecLoop, check_stands_in
from vcm.nn.proxy import IdentityProxy, JPEGProxy, load_proxy


class Fragile(JPEGCodec):
    """Fails on black images."""

    def encode(self, image):
        if not image.any():
            raise CodecError("black")
        return super().encode(image)


def test_images_that_are_not_finite_are_told_with_the_batch():
    with pytest.raises(
        ArgumentError, match=r"images must be finite before the codec; .* the batch was a\.png, b\.png"
    ):
        CodecLoop(JPEGCodec, workers=1).start(torch.full((2, 3, 8, 8), torch.nan), 50, ["a.png", "b.png"])


def test_failures_are_counted_across_a_resume():
    loop = CodecLoop(Fragile, workers=1)
    images = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    assert loop.start(images, 50, ["a", "b"])().kept.tolist() == [1]
    resumed = CodecLoop(Fragile, workers=1, max_failures=0.005)
    resumed.load_state_dict(loop.state_dict())
    assert (resumed.num_images, resumed.num_failures) == (2, 1)
    with pytest.raises(CodecError, match="failed on 2 of the last 4 images"):
        resumed.start(images, 50, ["a", "b"])()


def test_a_proxy_for_other_settings_of_the_codec_is_told(tmp_path):
    wide = CodecLoop(partial(JPEGCodec, chroma="444"), workers=1)
    with pytest.raises(ArgumentError, match=r"with chroma=444; got .a proxy for chroma=420"):
        check_stands_in(JPEGProxy(chroma="420"), wide)
    check_stands_in(JPEGProxy(chroma="444"), wide)
    trained = ProxyImitationModule(IdentityProxy("jpeg", (10, 90)), wide)
    trained.save_model(tmp_path / "proxy.safetensors")
    loaded = load_proxy(tmp_path / "proxy.safetensors")
    check_stands_in(loaded, CodecLoop(partial(JPEGCodec, chroma="444", optimize=True), workers=1))
    with pytest.raises(ArgumentError, match="proxy must be trained for jpeg with chroma=420"):
        check_stands_in(loaded, CodecLoop(JPEGCodec, workers=1))


def test_a_modules_checkpoint_holds_the_counts():
    module, resumed = (
        ProxyImitationModule(IdentityProxy("jpeg", (10, 90)), CodecLoop(Fragile, workers=1)) for _ in range(2)
    )
    module.codec_loop.start(torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)]), 50, ["a", "b"])()
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    resumed.on_load_checkpoint(checkpoint)
    assert (resumed.codec_loop.num_images, resumed.codec_loop.num_failures) == (2, 1)
