"""Servers that we ask: bounded, cached, each behind a breaker."""
