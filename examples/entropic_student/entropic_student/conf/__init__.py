"""Configs of this package, for Hydra."""
