"""`TLS-Required: No` (RFC 8689 4.1) behind a queue."""

from __future__ import annotations

from pathlib import Path

from mailgate.modules.target import remote
from mailgate.smtp.parameters import MailParameters
from mailgate.testing.names import MemoryNames
from tests.outbound.test_remote import QueuedCase
from tests.support.scenario import codes


class TlsRequiredNoTests(QueuedCase):
    """`TLS-Required: No` (RFC 8689 4.1): what others publish is set aside, what our operator asks for is not."""

    def setUp(self) -> None:
        super().setUp()
        self.mx("d.test", "10 mx.d.test.")
        self.names.add("_25._tcp.mx.d.test", "TLSA", "3 1 1 " + "00" * 32)
        self.hop_of_d = self.host("mx.d.test", "192.0.2.1")

    def outcome(self, *lines: str, field: bytes = b"TLS-Required: No\r\n") -> bool:
        """Whether the message goes."""
        self.queued(*lines)
        before = len(self.hop_of_d.transactions)
        client = self.client()
        content = field + b"From: a@x.test\r\n\r\nhello\r\n"
        self.assertEqual(codes(self.deliver(client, b"u@d.test", content=content))[-1], b"250")
        self.reactor.settle(60)
        assert self.running is not None
        self.reactor.run(self.running.stop())
        for path in Path(self.directory).glob("queue/*/*"):
            path.unlink()
        return len(self.hop_of_d.transactions) > before

    def test_dane_is_set_aside(self) -> None:
        self.assertFalse(self.outcome("tls dane", field=b""))
        self.assertTrue(self.outcome("tls dane"))
        self.assertIn(b"TLS-Required: No\r\n", self.hop_of_d.transactions[0].content)
        self.assertTrue(self.outcome("mx_auth {\n dane\n}", field=b"tls-required :  no \r\n"))

    def test_other_words_are_not_it(self) -> None:
        for field in (b"TLS-Required: Yes\r\n", b"TLS-Required: No\r\nTLS-Required: No\r\n", b"X-TLS-Required: No\r\n"):
            self.assertFalse(self.outcome("tls dane", field=field), field)

    def test_what_the_operator_asks_for_holds(self) -> None:
        for line in (
            "tls require",
            "tls require_verify",
            "tls dane_require",
            "tls dane_fallback_require_verify",
            "require_tls yes",
            "tls dane\n mx_auth {\n local_policy {\n min_tls_level encrypted\n}\n}",
        ):
            self.assertFalse(self.outcome(line), line)

    def test_mta_sts_is_set_aside(self) -> None:
        self.names.add("_mta-sts.d.test", "TXT", '"v=STSv1; id=1;"')

        class Hosts:
            def __init__(self, *_: object) -> None: ...

            async def fetch(self, domain: str) -> bytes:
                return b"version: STSv1\nmode: enforce\nmx: mx9.d.test\nmax_age: 604800\n"

        self.patch(remote, "PolicyHosts", Hosts)
        self.assertFalse(self.outcome("mx_auth {\n mtasts\n}", field=b""))
        self.assertTrue(self.outcome("mx_auth {\n mtasts\n}"))

    def test_requiretls_goes_before_it(self) -> None:
        self.direct("tls dane")
        self.assertEqual(self.offered(MailParameters(), tls_required_no=True).code, 250)
        self.assertEqual(str(self.offered(MailParameters(requiretls=True), tls_required_no=True))[:10], "550 5.7.10")


class LastErrorTests(QueuedCase):
    def test_what_others_publish_is_a_class_of_failure_of_its_own(self) -> None:
        """An expression sees it at the next attempt: here a way around it."""
        for kind, line, port in (("dane", "tls dane", "3 1 1 " + "00" * 32), ("mta-sts", "mx_auth {\n mtasts\n}", "")):
            with self.row(kind):
                self.names = MemoryNames(self.reactor)
                self.mx("d.test", "10 mx.d.test.")
                if port:
                    self.names.add("_25._tcp.mx.d.test", "TLSA", port)
                self.names.add("_mta-sts.d.test", "TXT", '"v=STSv1; id=1;"')
                self.patch(remote, "PolicyHosts", _Enforcing)
                self.host("mx.d.test", "192.0.2.1")
                spare = self.host("spare.test", "192.0.2.2")
                self.queued(line, f'route {{\n if last_error == "{kind}" then [spare.test]\n else (rcpt_domain)\n}}')
                self.send(b"u@d.test")
                self.reactor.settle(600)
                self.assertEqual(len(spare.transactions), 1)
                self.assertIn(f"kind={kind}", self.running.logged("queue.retry")[0])  # type: ignore[union-attr]


class _Enforcing:
    def __init__(self, *_: object) -> None: ...

    async def fetch(self, domain: str) -> bytes:
        return b"version: STSv1\nmode: enforce\nmx: mx.d.test\nmax_age: 604800\n"
