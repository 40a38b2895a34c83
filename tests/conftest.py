"""Settings for all tiers."""

from hypothesis import settings

# No deadline: machines are shared, and how long an example takes says nothing about the law it checks.
settings.register_profile("house", deadline=None, max_examples=40)
settings.load_profile("house")
