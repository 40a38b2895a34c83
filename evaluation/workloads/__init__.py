"""Workloads by tokens: the lengths of requests and answers, and the texts that are generated to have them."""
