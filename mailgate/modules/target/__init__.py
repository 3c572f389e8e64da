"""Targets: where mail goes."""
