"""mailgate: a mail gateway on Twisted. Start reading at docs/architecture.md, then `mailgate/service.py`."""

__version__ = "0.1.0"
