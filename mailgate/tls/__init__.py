"""TLS contexts, keys and verification for both sides."""
