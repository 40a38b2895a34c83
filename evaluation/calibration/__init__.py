"""Calibration of the instrument against a simulator with a known truth."""
