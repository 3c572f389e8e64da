"""Each step towards a next hop ends after its own time, whatever the others may take."""

from __future__ import annotations

from typing import Any

from mailgate.testing.nexthop import DEAF, HANG, NextHop, Step, say
from tests.support.certificates import authority, leaf
from tests.support.ledger import message
from tests.support.scenario import SMTP, SimulatedCase, statuses

NAME = "next.test"
LARGE = message("large", body=(b"x" * 998 + b"\r\n") * 4000)


STEPS: dict[str, tuple[dict[str, Any], str, bytes]] = {
    # how the next hop behaves, where the attempt ends, what the client hears
    "greeting": ({"script": {Step.BANNER: HANG}}, "greeting", b"451 4.4.2"),
    "ehlo": ({"script": {Step.HELLO: HANG}}, "hello", b"451 4.4.2"),
    "tls": ({"extensions": (b"STARTTLS",), "script": {Step.HANDSHAKE: HANG}}, "starttls", b"451 4.7.5"),
    "auth": ({"extensions": (b"AUTH PLAIN",), "tls": True, "script": {Step.AUTH: HANG}}, "auth", b"451 4.4.2"),
    "mail_from": ({"script": {Step.MAIL: HANG}}, "mail", b"451 4.4.2"),
    "rcpt_to": ({"script": {Step.RCPT: HANG}}, "rcpt", b"451 4.4.2"),
    "data": ({"script": {Step.DATA: HANG}}, "data", b"451 4.4.2"),
    "data_block": ({"script": {Step.BODY: DEAF}}, "body", b"451 4.4.2"),
    "final_dot": ({"script": {Step.DOT: HANG}}, "dot", b"451 4.4.2"),
}
OTHERS = (*STEPS, "connect")


class Timeouts(SimulatedCase):
    def stage(self, step: str, hop: NextHop | str, more: str = "") -> None:
        self.reactor.hosts[NAME] = "127.0.0.1"
        endpoint = hop if isinstance(hop, str) else f"tcp://{NAME}:{hop.port}"
        times = "".join(f"{name} {'7s' if name == step else '100s'}\n" for name in OTHERS)
        self.gateway(
            f"target.smtp next {endpoint} {{\n{more}\nfallback_delay 0\nhold_timeout 10m\n"
            f"tls_client {{\nroot_ca {authority().path}\n}}\ntimeouts {{\n{times}}}\n}}\n"
            f"smtp {SMTP} {{\ntls off\ndeliver_to &next\n}}\n"
        )

    def measure(self, content: bytes = b"") -> tuple[float, bytes]:
        """Seconds of one transaction, and its last answer."""
        client = self.client()
        began = self.reactor.seconds()
        self.ask(client, b"MAIL FROM:<a@x.test>")
        reply = self.ask(client, b"RCPT TO:<b@y.test>")
        if reply[:1] == b"2":
            self.ask(client, b"DATA")
            client.send((content or message("m")) + b".\r\n")
            reply = self.reactor.run(client.reply(), limit=3600)
        return self.reactor.seconds() - began, statuses([reply])[0]

    def stages(self) -> list[str]:
        assert self.running is not None
        return [line.partition("stage=")[2].split(" ")[0] for line in self.running.logged("delivery.attempt")]

    def test_each_step(self) -> None:
        for step, (behaviour, stage, status) in STEPS.items():
            with self.row(step):
                if behaviour.get("tls"):
                    behaviour = {**behaviour, "tls": leaf(NAME).server}
                more = {"auth": "auth plain user secret", "tls": "tls require"}.get(step, "")
                self.stage(step, self.hop(**behaviour), more)
                seconds, heard = self.measure(LARGE if step == "data_block" else b"")
                self.assertTrue(7.0 <= seconds < 8.0, seconds)
                self.assertEqual((heard, self.stages()), (status, [stage]))

    def test_connect(self) -> None:
        self.reactor.black_hole("192.0.2.1", 25)
        self.stage("connect", "tcp://192.0.2.1:25")
        seconds, heard = self.measure()
        self.assertTrue(7.0 <= seconds < 8.0, seconds)
        self.assertEqual((heard, self.stages()), (b"451 4.4.1", ["connect"]))

    def total(self, *hops: NextHop) -> None:
        """All endpoints have 9 seconds for an attempt, and none for any step of it."""
        endpoints = " ".join(f"tcp://127.0.0.1:{hop.port}" for hop in hops)
        self.gateway(
            f"target.smtp next {{\ntargets {endpoints}\nfallback_delay 0\nhold_timeout 10m\ntimeouts {{\ntotal 9s\n}}\n}}\n"
            f"smtp {SMTP} {{\ntls off\ndeliver_to &next\n}}\n"
        )

    def test_total_covers_every_step_before_the_dot_and_then_the_next_endpoint_is_asked(self) -> None:
        for step in (Step.BANNER, Step.HELLO, Step.MAIL, Step.RCPT, Step.DATA, Step.BODY):
            with self.row(str(step)):
                first, second = self.hop(script={step: DEAF if step is Step.BODY else HANG}), self.hop()
                self.total(first, second)
                seconds, heard = self.measure(LARGE)
                self.assertTrue(9.0 <= seconds < 10.0, seconds)
                self.assertEqual((heard[:3], len(first.transactions), len(second.transactions)), (b"250", 0, 1))

    def test_total_ends_the_wait_for_the_last_answer_and_nobody_else_hears_of_the_message(self) -> None:
        first, second = self.hop(script={Step.DOT: HANG}), self.hop()
        self.total(first, second)
        seconds, heard = self.measure()
        self.assertTrue(9.0 <= seconds < 10.0, seconds)
        self.assertEqual((heard, second.mail_count), (b"451 4.4.2", 0))
        assert self.running is not None
        self.assertEqual(len(self.running.logged("delivery.possible_duplicate")), 1)

    def test_total_is_for_each_attempt_on_a_kept_connection(self) -> None:
        hop = self.hop(script={Step.RCPT: [say(b"250 ok"), say(b"250 ok"), HANG]})
        self.total(hop)
        self.assertEqual(self.measure()[1][:3], b"250")
        self.reactor.settle(20)
        self.assertEqual(self.measure()[1][:3], b"250")
        self.reactor.settle(20)
        seconds, heard = self.measure()
        self.assertTrue(9.0 <= seconds < 10.0, seconds)
        self.assertEqual((heard, len(hop.connections)), (b"451 4.4.2", 1))

    def test_total_does_not_count_the_pauses_of_the_client(self) -> None:
        hop = self.hop()
        self.total(hop)
        client = self.client()
        for line in (b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test>", b"RCPT TO:<c@y.test>", b"DATA"):
            self.assertIn(self.ask(client, line)[:1], b"23")
            self.reactor.settle(20)
        client.send(message("m") + b".\r\n")
        self.assertEqual(self.reactor.run(client.reply())[:3], b"250")
        self.assertEqual((len(hop.connections), hop.mail_count), (1, 1))

    def test_rset_and_quit_hold_nobody_up(self) -> None:
        hop = self.hop(script={Step.RSET: HANG, Step.QUIT: HANG})
        self.reactor.hosts[NAME] = "127.0.0.1"
        self.gateway(
            f"target.smtp next tcp://{NAME}:{hop.port} {{\ntimeouts {{\nrset 3s\nquit 4s\n}}\n}}\n"
            f"smtp {SMTP} {{\ntls off\ndeliver_to &next\n}}\n"
        )
        client = self.client()
        self.ask(client, b"MAIL FROM:<a@x.test>")
        self.ask(client, b"RCPT TO:<b@y.test>")
        self.assertEqual(self.ask(client, b"RSET")[:3], b"250")
        self.reactor.settle(2.5)
        self.assertEqual(hop.open_connections, 1)
        self.reactor.settle(1)
        self.assertEqual(hop.open_connections, 0)
