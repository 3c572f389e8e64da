"""The word `lmtp`: mail over LMTP, with an answer for each recipient (RFC 2033)."""

from __future__ import annotations

from mailgate.inbound.listener import Listener


class LmtpListener(Listener):
    """Accepts mail over LMTP and passes it through the pipeline in its block; each recipient hears its own answer."""

    name = "lmtp"
    lmtp = True
