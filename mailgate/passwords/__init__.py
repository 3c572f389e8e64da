"""Passwords as they are stored: which forms there are, and whether one fits. Slow on purpose: call it in a thread."""

from mailgate.passwords.forms import Form, PasswordError, Stored, read_secret

__all__ = ["Form", "PasswordError", "Stored", "read_secret"]
