"""Differentiable stand-ins for codecs: one interface, pictures and quality in, pictures and bpp out."""

from vcm.nn.proxy.base import Proxy, ProxyOutput

__all__ = ["Proxy", "ProxyOutput"]
