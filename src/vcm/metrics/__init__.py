"""Rate, distortion, accuracy, and their comparison."""
