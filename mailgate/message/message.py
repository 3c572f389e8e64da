"""One variant of a message as it will be sent: a header section of its own over a shared `Body`."""

from __future__ import annotations
