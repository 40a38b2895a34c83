"""Benchmarks of this project, as ratios to a baseline measured in the same run."""
