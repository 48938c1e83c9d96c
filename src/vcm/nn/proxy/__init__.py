"""Differentiable proxies of codecs: images and a quality in, decoded images and bpp out."""

from vcm.nn.proxy.base import Proxy, ProxyOutput
from vcm.nn.proxy.identity import IdentityProxy
from vcm.nn.proxy.jpeg import JPEGProxy
from vcm.nn.proxy.learned import LearnedProxy
from vcm.nn.proxy.serialization import build_proxy, load_proxy, save_proxy
from vcm.nn.proxy.transform import TransformProxy

__all__ = [
    "IdentityProxy",
    "JPEGProxy",
    "LearnedProxy",
    "Proxy",
    "ProxyOutput",
    "TransformProxy",
    "build_proxy",
    "load_proxy",
    "save_proxy",
]
