"""The SMTP and LMTP protocol, sans-IO: bytes in, events and bytes out. Imports nothing of Twisted."""
