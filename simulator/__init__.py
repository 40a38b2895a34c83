"""A stand-in for the vendors' servers with a known truth; it never passes itself off as a model."""
