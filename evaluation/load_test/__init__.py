"""Load tests from the evaluation's side: it starts Locust, makes rows of what its users heard, and judges them."""
