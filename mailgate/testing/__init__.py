"""Fakes for tests and for authors of modules; the gateway itself never imports them."""
