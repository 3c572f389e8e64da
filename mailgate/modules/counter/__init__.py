"""Counters: what several workers and nodes count together."""
