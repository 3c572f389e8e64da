"""Each directive of a listener: what it changes on the wire, and what is wrong with it at load. A whole gateway in memory."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

from mailgate.inbound.esmtp import EsmtpListener
from mailgate.inbound.ports import CannotBind
from mailgate.testing.client import connect
from mailgate.testing.gateway import Misconfigured, WholeGateway
from mailgate.testing.network import adapters_for
from mailgate.testing.tls import TrustingClient
from mailgate.tls.pairs import self_signed
from tests.support.scenario import LMTP, SMTP, SimulatedCase
from tests.tls.authority import Authority, dns, write_pair

HELLO = b"EHLO client.test"
MAIL = b"MAIL FROM:<a@client.test>"
RCPT = b"RCPT TO:<b@mx.test>"

LAB = "auth static {\n entry alice secret\n}\ninsecure_auth yes"

ON_THE_WIRE: list[tuple[str, list[bytes], bytes]] = [
    # directive, lines said one after the other (a message in one element is said whole), what the last reply holds
    ("", [], b"220 gateway.test ESMTP"),
    ("hostname mx.other.test", [], b"220 mx.other.test ESMTP"),
    ('banner "no spam please"', [], b"ESMTP no spam please"),
    ('helo_response "%s salutes %s"', [HELLO], b"250-gateway.test salutes client.test"),
    ("max_message_size 1K", [HELLO], b"SIZE 1024"),
    ("max_message_size 1K", [HELLO, MAIL + b" SIZE=1025"], b"552 5.3.4"),
    ("max_message_size 1K", [HELLO, MAIL, RCPT, b"DATA", b"\r\n" + b"x" * 1100 + b"\r\n."], b"552 5.3.4"),
    ("announce_size no", [HELLO], b"250-SIZE\r\n"),
    ("hide CHUNKING ENHANCEDSTATUSCODES", [HELLO, MAIL], b"250 Sender"),
    ("disable_commands VRFY", [HELLO, b"VRFY a"], b"502 5.5.1"),
    ("max_recipients 1", [HELLO, MAIL, RCPT, RCPT], b"452 4.5.3"),
    ("max_errors 2", [HELLO, b"BOGUS", b"BOGUS"], b"421 4.7.0"),
    ("max_rejected_recipients 1", [HELLO, MAIL, b"RCPT TO:<>"], b"421 4.7.0"),
    ("max_command_length 512", [HELLO, b"NOOP " + b"x" * 600], b"500 5.5.2"),
    ("smtp_max_line_length 998", [HELLO, MAIL, RCPT, b"DATA", b"\r\n" + b"x" * 999 + b"\r\n."], b"554 5.6.0"),
    ("max_header_size 64B", [HELLO, MAIL, RCPT, b"DATA", b"Subject: " + b"x" * 99 + b"\r\n\r\n."], b"554 5.6.0"),
    ("max_header_count 1", [HELLO, MAIL, RCPT, b"DATA", b"A: b\r\nC: d\r\n\r\n."], b"554 5.6.0"),
    ("max_received 2", [HELLO, MAIL, RCPT, b"DATA", b"Received: by x; now\r\n" * 3 + b"\r\n."], b"554 5.4.6"),
    ("strict_line_endings reject", [HELLO, MAIL, RCPT, b"DATA", b"\r\na\nb\r\n."], b"550 5.6.11"),
    ("strict_line_endings normalize", [HELLO, MAIL, RCPT, b"DATA", b"\r\na\nb\r\n."], b"250 2.0.0"),
    ("nul reject", [HELLO, MAIL, RCPT, b"DATA", b"\r\na\0b\r\n."], b"554 5.6.0"),
    ("nul strip", [HELLO, MAIL, RCPT, b"DATA", b"\r\na\0b\r\n."], b"250 2.0.0"),
    ("strict_addresses yes", [HELLO, b"MAIL FROM: a@client.test"], b"501 5.1.7"),
    ("strict_addresses no", [HELLO, b"MAIL FROM: a@client.test"], b"250 2.1.0"),
    (LAB, [HELLO], b"AUTH SCRAM-SHA-256 OAUTHBEARER XOAUTH2 CRAM-MD5 PLAIN LOGIN\r\n"),
    (LAB, [HELLO, b"AUTH PLAIN AGFsaWNlAHNlY3JldA=="], b"235 2.7.0"),
    (LAB, [HELLO, b"AUTH PLAIN AGFsaWNlAHdyb25n"], b"535 5.7.8"),
    (f"auth_mechanisms PLAIN\n{LAB}", [HELLO], b"AUTH PLAIN\r\n"),
    (f"auth_mechanisms PLAIN\n{LAB}", [HELLO, b"AUTH LOGIN"], b"504 5.5.4"),
    (
        f"insecure_auth no\ntls self_signed\n{LAB.replace('insecure_auth yes', '')}",
        [HELLO, b"AUTH PLAIN AGFsaWNlAHNlY3JldA=="],
        b"538 5.7.11",
    ),
    (f"auth_required yes\n{LAB}", [HELLO, MAIL], b"530 5.7.0 Authentication required"),
    (f"auth_required yes\n{LAB}", [HELLO, b"AUTH PLAIN AGFsaWNlAHNlY3JldA==", MAIL], b"250 2.1.0"),
    (f'auth_required_message "Who are you?"\nauth_required yes\n{LAB}', [HELLO, MAIL], b"530 5.7.0 Who are you?"),
    (f"max_unauthenticated_commands 2\nauth_required yes\n{LAB}", [HELLO, b"NOOP"], b"250 2.0.0"),
    (f"max_unauthenticated_commands 2\nauth_required yes\n{LAB}", [HELLO, b"NOOP", b"NOOP"], b"421 4.7.0"),
    (f"max_unauthenticated_commands off\nauth_required yes\n{LAB}", [HELLO] + [b"NOOP"] * 20, b"250 2.0.0"),
    (f"max_auth_failures 2\n{LAB}", [HELLO] + [b"AUTH PLAIN AGFsaWNlAHdyb25n"] * 2, b"421 4.7.0"),
    (f"disable_commands AUTH\n{LAB}", [HELLO, b"AUTH PLAIN AGFsaWNlAHNlY3JldA=="], b"502 5.5.1"),
    ("hostname bücher.example", [], b"220 xn--bcher-kva.example ESMTP"),
    ("tls off", [HELLO, b"STARTTLS"], b"502 5.5.1"),
    ("tls self_signed", [HELLO], b"STARTTLS"),
    ("tls self_signed", [HELLO, b"STARTTLS"], b"220 2.0.0"),
    ("refuse_clients 127.0.0.0/8", [], b"554 5.7.1 Access denied"),
    ("limits {\n source rate 1 1h\n}", [HELLO, MAIL, b"RSET", MAIL], b"450 4.7.0"),
]

WRONG_AT_LOAD: list[tuple[str, str]] = [
    ("smtp tls://127.0.0.1:465 {\n discard\n}\n", "`tls://127.0.0.1:465` needs a certificate"),
    ("smtp tcp://127.0.0.1:25 {\n tls file /no/such.crt /no/such.key\n discard\n}\n", "/no/such.crt: No such file or directory"),
    ("smtp tcp://127.0.0.1:25 {\n tls file a b c\n discard\n}\n", "takes pairs"),
    ("smtp tcp://127.0.0.1:25 {\n on_split queue\n discard\n}\n", "on_split"),
    ("smtp tcp://127.0.0.1:25 {\n auth plain\n discard\n}\n", "unknown auth `plain`"),
    ("smtp tcp://127.0.0.1:25 {\n hide SOMETHING\n discard\n}\n", "`SOMETHING` is not possible"),
    ("submission tcp://127.0.0.1:587 {\n discard\n}\n", "nobody can log in here, but everybody must"),
    (
        "submission tcp://127.0.0.1:587 {\n auth static {\n entry a b\n }\n disable_commands AUTH\n discard\n}\n",
        "leave AUTH out of `disable_commands`",
    ),
    ("smtp tcp://127.0.0.1:25 {\n auth static {\n entry a b\n }\n discard\n}\n", "without TLS nobody can log in"),
    ("smtp tcp://*:25 tcp://127.0.0.1:25 {\n discard\n}\n", "`tcp://127.0.0.1:25` is opened already"),
    ("admin tcp://127.0.0.1:25\nsmtp tcp://127.0.0.1:25 {\n discard\n}\n", "`tcp://127.0.0.1:25` is opened already"),
    ('smtp tcp://127.0.0.1:25 {\n hostname "our gateway"\n discard\n}\n', "can't be said in EHLO"),
    ("smtp {\n discard\n}\n", "needs"),
    ("smtp tcp://mx.example.org:25 {\n discard\n}\n", "an IP address is needed"),
]


class OnTheWire(SimulatedCase):
    def test_each_directive(self) -> None:
        for directive, lines, expected in ON_THE_WIRE:
            with self.row(f"{directive} {lines}"):
                self.gateway(f"smtp {SMTP} {{\n    {directive}\n    discard\n}}\n")
                client = self.reactor.run(connect(self.reactor, SMTP))
                reply = self.reactor.run(client.reply()) + b"\r\n"
                for line in lines:
                    reply = self.ask(client, line) + b"\r\n"
                self.assertIn(expected, reply)
                self.reactor.run(client.close())

    def test_every_directive_that_shows_in_a_reply_has_a_row(self) -> None:
        """Those that show otherwise, by time or by number, have tests of their own, in test_connection.py most of them."""
        elsewhere = {
            "read_timeout", "data_timeout", "handshake_timeout", "session_timeout", "shutdown_timeout", "max_connections",
            "max_connections_per_ip", "early_talker", "greeting_delay", "defer_sender_reject", "tls_start",
            "socket_mode", "socket_owner", "socket_group", "max_lag", "authserv_id",
        }  # fmt: skip
        own = {name for name in EsmtpListener.directives if name in vars_of_listener()}
        self.assertEqual(set(), own - elsewhere - {directive.split(" ")[0] for directive, _, _ in ON_THE_WIRE})

    def test_authserv_id_is_whose_results_nobody_else_may_give(self) -> None:
        others = b"mx.else.test"
        for directive, forged in (("", b"gateway.test"), ("authserv_id mx.other.test", b"mx.other.test")):
            with self.row(directive):
                hop = self.hop()
                self.gateway(f"smtp {SMTP} {{\n tls off\n {directive}\n deliver_to smtp {hop.endpoint}\n}}\n")
                fields = b"".join(b"Authentication-Results: " + name + b"; spf=pass\r\n" for name in (forged, others))
                self.deliver(self.client(), b"b@mx.test", content=fields + b"\r\nx\r\n")
                content = hop.transactions[0].content
                self.assertEqual((content.count(forged + b"; spf=pass"), content.count(others + b"; spf=pass")), (0, 1))

    def test_times_and_numbers_reach_the_connections(self) -> None:
        running = self.gateway(
            f"smtp {SMTP} {{\n read_timeout 1m\n data_timeout 2m\n handshake_timeout 3s\n session_timeout 1h\n"
            " max_connections 7\n max_connections_per_ip 6\n early_talker ignore\n greeting_delay 2s\n"
            " shutdown_timeout 9s\n relay_from 10.0.0.0/8\n discard\n}\n"
        )
        listener = running.configuration.listeners[0]
        settings = listener.connection_settings()
        self.assertEqual(
            (60.0, 120.0, 3.0, 3600.0, 7, 6, False, 2.0, 9.0),
            (
                settings.read_timeout,
                settings.data_timeout,
                settings.handshake_timeout,
                settings.session_timeout,
                settings.max_connections,
                settings.max_connections_per_ip,
                settings.reject_early_talkers,
                settings.greeting_delay,
                listener.shutdown_timeout,
            ),
        )
        self.assertEqual((ip_network("10.0.0.0/8"),), settings.uncounted)

    def test_lmtp_says_lhlo_only(self) -> None:
        self.gateway(f"lmtp {LMTP} {{\n discard\n}}\n")
        client = self.client(LMTP)
        self.assertEqual(b"500 5.5.1", self.ask(client, HELLO)[:9])
        self.assertEqual([b"250"] * 2, [reply[:3] for reply in self.deliver(client, b"b@mx.test", b"b@mx.test")[-2:]])

    def test_several_addresses_in_one_block(self) -> None:
        self.gateway("smtp tcp://127.0.0.1:25 tcp://127.0.0.2:2525 {\n discard\n}\n")
        for address in ("tcp://127.0.0.1:25", "tcp://127.0.0.2:2525"):
            self.assertEqual(b"250", self.deliver(self.client(address), b"b@mx.test")[-1][:3])


class Logs(SimulatedCase):
    def test_a_session_with_a_message_is_not_worth_a_line_of_its_own(self) -> None:
        running = self.gateway(f"smtp {SMTP} {{\n discard\n}}\n")
        client = self.client()
        self.deliver(client, b"b@mx.test")
        self.reactor.run(client.quit())
        self.reactor.settle()
        self.assertEqual([], running.logged("session.close"))

    def test_a_session_without_one_says_why_it_ended(self) -> None:
        running = self.gateway(f"smtp {SMTP} {{\n read_timeout 1m\n discard\n}}\n")
        quitting, silent, gone = self.client(), self.client(), self.client()
        self.reactor.run(quitting.quit())
        gone.drop(reset=True)
        self.reactor.settle(70)
        self.assertTrue(silent.closed)
        lines = running.logged("session.close")
        self.assertEqual(3, len(lines))
        for reason in ("reason=quit", 'reason="client gone"', "reason=idle"):
            self.assertEqual(1, len([line for line in lines if reason in line and "messages=0" in line]), lines)

    def test_injection_is_logged(self) -> None:
        running = self.gateway(f"smtp {SMTP} {{\n tls self_signed\n discard\n}}\n")
        client = self.client()
        client.send(b"STARTTLS\r\nMAIL FROM:<a@client.test>\r\n")
        self.reactor.run(client.wait_closed())
        self.assertEqual(1, len(running.logged("protocol.injection")))


def vars_of_listener() -> set[str]:
    """The directives that the listener declares itself: the blocks that it is made of have tests of their own."""
    from mailgate.config.schema import Directive
    from mailgate.inbound.listener import Listener

    return {value.name for value in vars(Listener).values() if isinstance(value, Directive)}


class Certificates(SimulatedCase):
    def _write(self, authority: Authority, name: str) -> str:
        certificate, key = write_pair(authority.issue([dns(name)]), Path(self.directory), name.replace("*", "wild"))
        return f"{certificate} {key}"

    def test_pairs_chosen_by_name_and_inherited_from_the_global_scope(self) -> None:
        authority = Authority()
        pairs = " ".join(self._write(authority, name) for name in ("a.test", "*.b.test"))
        self.gateway(f"tls file {pairs}\nsmtp tls://127.0.0.1:465 {{\n discard\n}}\n")
        for sni, expected in (("a.test", "a.test"), ("x.b.test", "*.b.test"), ("unknown.test", "a.test")):
            with self.subTest(sni):
                client = self.reactor.run(connect(self.reactor, "tls://127.0.0.1:465", tls=TrustingClient(sni)))
                self.reactor.run(client.reply())
                transport = client.transport
                assert transport is not None
                shown = transport.getPeerCertificate()  # type: ignore[attr-defined]
                names = [
                    extension.value
                    for extension in shown.to_cryptography().extensions
                    if extension.oid.dotted_string == "2.5.29.17"
                ]
                self.assertIn(expected, str(names))
                self.reactor.run(client.close())

    def test_the_key_of_another_certificate_is_an_error_at_load(self) -> None:
        certificate, _ = write_pair(self_signed(["a.test"]), Path(self.directory), "a")
        _, key = write_pair(self_signed(["b.test"]), Path(self.directory), "b")
        error = self.assertRaises(
            Misconfigured, self.gateway, f"smtp {SMTP} {{\n    tls file {certificate} {key}\n    discard\n}}\n"
        )
        self.assertIn("this key does not belong to the certificate", str(error))
        self.assertIn("mailgate.conf:5:5", str(error))

    def test_a_block_may_switch_off_what_it_inherits(self) -> None:
        self.gateway(f"tls self_signed\nsmtp {SMTP} {{\n tls off\n discard\n}}\n")
        self.assertEqual(b"502", self.ask(self.client(), b"STARTTLS")[:3])


class AtLoad(SimulatedCase):
    def test_each_mistake_is_named(self) -> None:
        for text, complaint in WRONG_AT_LOAD:
            with self.row(complaint):
                self.assertIn(complaint, str(self.assertRaises(Misconfigured, self.gateway, text)))

    def test_a_port_in_use_names_the_block(self) -> None:
        self.gateway(f"smtp {SMTP} {{\n discard\n}}\n")
        other = WholeGateway(f"hostname x\n\nsmtp {SMTP} {{\n discard\n}}\n", adapters_for(self.reactor), self.directory)
        error = self.failureResultOf(_started(other), CannotBind)
        self.assertRegex(str(error.value), r"mailgate.conf:5: cannot listen on tcp://127.0.0.1:25: ")

    def test_all_ports_or_none(self) -> None:
        self.gateway("smtp tcp://127.0.0.1:2600 {\n discard\n}\n")
        other = WholeGateway(
            "smtp tcp://127.0.0.1:2601 tcp://127.0.0.1:2600 {\n discard\n}\n", adapters_for(self.reactor), self.directory
        )
        self.failureResultOf(_started(other), CannotBind)
        WholeGateway("smtp tcp://127.0.0.1:2601 {\n discard\n}\n", adapters_for(self.reactor), self.directory)
        free = WholeGateway("smtp tcp://127.0.0.1:2601 {\n discard\n}\n", adapters_for(self.reactor), self.directory)
        self.successResultOf(_started(free))
        self.reactor.run(free.stop())


def _started(gateway: WholeGateway):  # type: ignore[no-untyped-def]
    from twisted.internet.defer import Deferred

    return Deferred.fromCoroutine(gateway.start())
