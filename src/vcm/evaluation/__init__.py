"""Evaluation: run pipelines on a dataset and build rate–accuracy curves."""
