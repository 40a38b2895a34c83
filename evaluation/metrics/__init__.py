"""Metrics of one trial: cadence, reader experience, throughput."""
