"""BPG (HEVC intra in a small container), in process."""
