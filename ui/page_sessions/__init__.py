"""The sessions of open pages: answers under way, spending, keys and the rate of updates."""
