"""Arguments, scenario files, commands and output of `python -m evaluation`."""
