"""What is sent where senders are checked: a message with one signature, and the names that speak for its sender.

`hot_path` answers with these names out of memory, `checked` through a name server.
"""

from __future__ import annotations

import time

from mailgate.mailauth.dkim import Signer, Signing, SigningSettings
from mailgate.mailauth.dkim_keys import RSA_SHA256, new_key

DOMAIN = "bench.test"
CLIENT = "192.0.2.7"
"""Whom SPF lets send: a stranger, since clients on loopback are not judged."""
HEADER = b"Subject: bench\r\nFrom: <sender@bench.test>\r\n"
TEXT = (b"x" * 78 + b"\r\n") * 64
_SELECTOR = "bench"
_KEY = new_key(RSA_SHA256)
TEXTS = {
    DOMAIN: f"v=spf1 a:web.{DOMAIN} include:_spf.{DOMAIN} -all",
    f"_spf.{DOMAIN}": "v=spf1 ip4:198.51.100.0/24 ip4:192.0.2.0/24 -all",
    f"_dmarc.{DOMAIN}": "v=DMARC1; p=reject",
    f"{_SELECTOR}._domainkey.{DOMAIN}": _KEY.record,
}
"""TXT records."""
ADDRESSES = {f"web.{DOMAIN}": "198.51.100.80"}
"""A records."""


def quoted(text: str) -> str:
    """A TXT record as zone files have it, in strings of at most 250 octets."""
    return " ".join(f'"{text[start : start + 250]}"' for start in range(0, len(text), 250))


def signed(header: bytes = HEADER) -> bytes:
    """`TEXT` under a header section with a DKIM signature before it."""
    making = Signing(header, SigningSettings())
    making.update(TEXT)
    signer = Signer(DOMAIN, _SELECTOR, _KEY)
    return signer.sign(making.unsigned(signer, time.time())) + header + b"\r\n" + TEXT
