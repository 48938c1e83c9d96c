"""Frozen networks with a purpose."""
