"""System × data → points → curves → report."""
