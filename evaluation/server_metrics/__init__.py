"""The server's own metrics during a run: read each second in Prometheus's format, and kept as a table."""
