"""Command line: compose, instantiate, run."""
