"""No mode of target.remote that requires TLS says anything of a message in clear text, whatever its host does: every way to ask
for TLS, against every way to keep us from it. (test_tls_matrix.py does the same for hosts that the configuration names.)"""

from __future__ import annotations

import re
from typing import Any

from mailgate.modules.target import remote
from mailgate.smtp.parameters import MailParameters
from mailgate.testing.names import MemoryNames
from mailgate.testing.nexthop import DROP, GARBAGE, HANG, RESET, Step, say
from tests.outbound.test_dane import key_digest
from tests.outbound.test_remote import RemoteCase
from tests.support.certificates import authority, leaf

SAID_IN_CLEAR = re.compile(rb"(?mi)^(MAIL|RCPT|DATA|BDAT|AUTH|HELO)\b")
POLICY = b"version: STSv1\nmode: enforce\nmx: mx.d.test\nmax_age: 604800\n"
OFFERED = (b"PIPELINING", b"8BITMIME", b"REQUIRETLS", b"STARTTLS")

MODES = {
    # the directives, whether there are TLSA records: good ones, or such as nobody can use; whether there is a policy
    "require": ("tls require", "", False),
    "require_verify": ("tls require_verify", "", False),
    "require_tls": ("require_tls yes", "", False),
    "dane": ("tls dane", "good", False),
    "dane, unusable": ("tls dane", "unusable", False),
    "dane_require": ("tls dane_require", "good", False),
    "dane_fallback_require_verify": ("tls dane_fallback_require_verify", "", False),
    "dane_fallback_require_verify, records": ("tls dane_fallback_require_verify", "good", False),
    "mx_auth dane": ("mx_auth {\n dane\n}", "good", False),
    "mta-sts": ("mx_auth {\n mtasts\n}", "", True),
    "min_tls_level encrypted": ("mx_auth {\n local_policy {\n min_tls_level encrypted\n}\n}", "", False),
    "min_tls_level authenticated": ("mx_auth {\n local_policy {\n min_tls_level authenticated\n}\n}", "", False),
    "requiretls": ("tls optional", "", False),
}
FAULTS: dict[str, dict[str, Any]] = {
    "stripped": {"extensions": (b"PIPELINING", b"REQUIRETLS")},
    "ehlo refused": {"extensions": OFFERED, "script": {Step.HELLO: [say(b"502 5.5.1 no"), say(b"250 mx.d.test")]}},
    "454": {"extensions": OFFERED, "script": {Step.STARTTLS: say(b"454 4.7.0 not now")}},
    "501": {"extensions": OFFERED, "script": {Step.STARTTLS: say(b"501 5.5.4 no")}},
    "250 in place of 220": {"extensions": OFFERED, "script": {Step.STARTTLS: say(b"250 as you like")}},
    "injected": {"extensions": OFFERED, "script": {Step.STARTTLS: say(b"220 go", b"250 injected")}},
    "dropped": {"extensions": OFFERED, "script": {Step.STARTTLS: DROP}},
    "garbage": {"extensions": OFFERED, "script": {Step.STARTTLS: GARBAGE}},
    "handshake garbage": {"extensions": OFFERED, "script": {Step.HANDSHAKE: GARBAGE}},
    "handshake reset": {"extensions": OFFERED, "script": {Step.HANDSHAKE: RESET}},
    "handshake hangs": {"extensions": OFFERED, "script": {Step.HANDSHAKE: HANG}},
}


class MatrixTests(RemoteCase):
    def test_every_mode_against_every_fault(self) -> None:
        cells = 0
        for mode, (line, tlsa, sts) in MODES.items():
            for fault, behaviour in FAULTS.items():
                with self.row(f"{mode} / {fault}"):
                    self.assert_nothing_in_clear(line, tlsa, behaviour, sts=sts, requiretls=mode == "requiretls")
                    cells += 1
        self.assertEqual(cells, len(MODES) * len(FAULTS))

    def assert_nothing_in_clear(self, line: str, tlsa: str, behaviour: dict[str, Any], *, sts: bool, requiretls: bool) -> None:
        self.names = MemoryNames(self.reactor)
        self.mx("d.test", "10 mx.d.test.")
        if tlsa:
            digest = key_digest(leaf("mx.d.test")) if tlsa == "good" else "00" * 32
            self.names.add("_25._tcp.mx.d.test", "TLSA", f"{3 if tlsa == 'good' else 1} 1 1 {digest}")
        if sts:
            self.names.add("_mta-sts.d.test", "TXT", '"v=STSv1; id=1;"')
            self.patch(remote, "PolicyHosts", _Hosts)
        hop = self.host("mx.d.test", "192.0.2.1", **behaviour)
        self.direct(line, f"tls_client {{\n root_ca {authority().path}\n}}", "timeouts {\n tls 5s\n}")
        heard = self.offered(MailParameters(requiretls=requiretls))
        self.assertIn(heard.code, (451, 550) if requiretls else (451,), heard)
        self.assertGreater(len(hop.connections), 0, "it was not even tried")
        for connection in hop.connections:
            self.assertIsNone(SAID_IN_CLEAR.search(bytes(connection.clear)), bytes(connection.clear))
        self.assertEqual(hop.transactions, [])


class _Hosts:
    def __init__(self, *_: object) -> None: ...

    async def fetch(self, domain: str) -> bytes:
        return POLICY
