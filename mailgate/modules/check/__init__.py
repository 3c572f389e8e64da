"""Checks: judgements on a message."""
