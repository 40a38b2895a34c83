"""Load tests with Locust: starting it, importing the answers that its users received, and judging them."""
