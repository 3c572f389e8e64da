"""The word `smtp`: mail over ESMTP (RFC 5321)."""

from __future__ import annotations

from mailgate.inbound.listener import Listener


class EsmtpListener(Listener):
    """Accepts mail over ESMTP and passes it through the pipeline in its block."""

    name = "smtp"
