"""Adapters, one per dialect of the providers' APIs."""
