"""The compare tab: several answers to one prompt, side by side."""
