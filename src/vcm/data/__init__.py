"""Data sets, datamodules, and published assets."""
