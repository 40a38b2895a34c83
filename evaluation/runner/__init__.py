"""Execution of a run: load, trials, budget, progress, journal."""
