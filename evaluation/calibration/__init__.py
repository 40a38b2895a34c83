"""Calibration of the instrument's timestamps against a simulator that logs when it sends."""
