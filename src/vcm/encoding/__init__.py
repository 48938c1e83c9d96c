"""Encoder side: what happens to an image before a codec, for a task that is known."""
