"""The prompts that ship, the file format of prompts, and the checks of answers."""
