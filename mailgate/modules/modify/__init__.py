"""Modifiers: rewriting of envelope and message."""
