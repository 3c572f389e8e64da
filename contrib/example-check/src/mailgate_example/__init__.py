"""Modules for mailgate, to begin from."""
