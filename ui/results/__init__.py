"""The results tab: runs of the evaluation and of load tests, alone, side by side, and to download."""
