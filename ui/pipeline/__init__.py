"""The pipeline tab."""
