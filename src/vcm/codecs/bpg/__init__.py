"""In-process BPG (HEVC intra in a small container)."""
