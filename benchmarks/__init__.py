"""How fast this project is, as ratios against a baseline that runs in the same process at the same time."""
