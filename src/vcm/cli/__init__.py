"""The command line: compose, instantiate, run."""
