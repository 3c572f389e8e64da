"""Coverage: what a missing decision leaves open is shown with an envelope, and where nothing is missing nothing is shown."""

from __future__ import annotations

import re
from random import Random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgate.config.diagnostics import Diagnostic
from mailgate.message.envelope import Envelope, Recipient, Session
from mailgate.net.waiting import begin
from mailgate.pipeline.proof import sample_clients
from mailgate.pipeline.router import DeliverTo, place
from mailgate.pipeline.routing import Routing
from mailgate.pipeline.tour import Crowd, Tour
from mailgate.registry import build
from mailgate.smtp.address import Address
from mailgate.smtp.reply import MailError

_ENVELOPE = re.compile(r"shown by: (client .*), MAIL FROM:<(.*)>, RCPT TO:<(.*)>: nothing decides")
DEFAULT = "default_destination {\n reject\n}\n"


def listener(pipeline: str) -> str:
    return f"tls off\nlocal_domains example.org\nsmtp tcp://192.0.2.1:25 {{\n{pipeline}\n}}\n"


def shown(diagnostic: Diagnostic) -> tuple[str, str, str]:
    found = _ENVELOPE.match(diagnostic.notes[0])
    assert found is not None, diagnostic
    return found[1], found[2], found[3]


class HoleTests(SynchronousTestCase):
    def test_the_envelope_comes_to_the_hole(self) -> None:
        inner = f"destination example.org {{\n discard\n}}\n{DEFAULT}"
        for pipeline, code, sender, recipient in [
            ("", "E0801", "stranger@elsewhere.test", "stranger@example.org"),
            ("destination a.test {\n discard\n}", "E0803", "stranger@elsewhere.test", "stranger@elsewhere.test"),
            (f"destination a.test {{\n}}\n{DEFAULT}", "E0801", "stranger@elsewhere.test", "stranger@a.test"),
            (f"destination .a.test {{\n}}\n{DEFAULT}", "E0801", "stranger@elsewhere.test", "stranger@elsewhere.a.test"),
            (f"source b@b.test {{\n}}\ndefault_source {{\n{inner}}}", "E0801", "b@b.test", ""),
            (f"source <> {{\n}}\ndefault_source {{\n{inner}}}", "E0801", "", ""),
            (f"source b.test {{\n{inner}}}", "E0803", "stranger@elsewhere.test", ""),
            (f"when tls {{\n}}\n{inner}", "E0801", "", ""),
        ]:
            diagnostics = [one for one in build(listener(pipeline)).diagnostics if one.is_error]
            self.assertEqual([one.code for one in diagnostics], [code], pipeline)
            client, from_, to = shown(diagnostics[0])
            self.assertTrue(client.startswith("client 203.0.113.9"))
            self.assertEqual("TLS" in client, "when tls" in pipeline)
            if sender or "<>" in pipeline:
                self.assertEqual(from_, sender, pipeline)
            if recipient and recipient != "stranger@example.org":
                self.assertEqual(to, recipient, pipeline)

    def test_where_samples_arrive_live_mail_arrives(self) -> None:
        """Random pipelines: all samples come to a decision, and each is the one that the walk of a message comes to."""
        for seed in range(80):
            built = build(TARGETS + listener(_pipeline(Random(seed))))
            assert built.configuration is not None, built.diagnostics
            router: Any = vars(built.configuration.listeners[0])["_router"]
            arrived: list[tuple[Any, Session, Address, Address]] = []

            def arrive(end: Any, crowd: Crowd, recipients: Any, arrived: Any = arrived) -> None:
                arrived.append((end, crowd.clients[0], crowd.senders[0].original, recipients[0].original))

            local = built.configuration.globals.local_domains
            Tour(router, sample_clients(router, ["203.0.113.9", "10.0.0.9"]), local, arrive, refused=True).run()
            self.assertTrue(arrived)
            for end, *envelope in arrived:
                self.assertEqual(begin(_decision(router, *envelope)), _expected(end), f"seed {seed}: {envelope}")


TARGETS = "target.smtp a {\n targets tcp://10.0.0.1\n}\ntarget.smtp b {\n targets tcp://10.0.0.2\n}\n"


async def _decision(router: Any, client: Session, sender: Address, recipient: Address) -> list[Any]:
    """Where the walk of live mail leads: places and targets."""
    routing = Routing()
    try:
        path = await routing.enter(router, Envelope("1", sender, client))
        return [(plan.where, plan.target) for plan in await routing.plan(path, Recipient(recipient))]
    except MailError as error:
        return [(error.where, None)]


def _expected(end: Any) -> list[Any]:
    return [(place(end.span), end.target if isinstance(end, DeliverTo) else None)]


def _pipeline(random: Random) -> str:
    def handling() -> str:
        return random.choice(["deliver_to &a", "deliver_to &b", "reject", "discard"])

    def recipients() -> str:
        if random.random() < 0.3:
            return handling()
        rules = random.sample(["example.org", ".example.org", "x.test", "ann@example.org", "postmaster"], random.randint(1, 3))
        blocks = "".join(f"destination {rule} {{\n{condition(handling)}{handling()}\n}}\n" for rule in rules)
        return f"{blocks}default_destination {{\n{handling()}\n}}\n"

    def condition(inner: Any) -> str:
        if random.random() < 0.6:
            return ""
        test = random.choice(["tls", "client_ip in [10.0.0.0/8]", 'helo == "x.test"', 'sender_domain == "x.test"'])
        return f"when {test} {{\n{inner()}\n}}\n"

    if random.random() < 0.5:
        return condition(recipients) + recipients()
    rules = random.sample(["example.org", ".x.test", "<>", "bob@x.test"], random.randint(1, 3))
    blocks = "".join(f"source {rule} {{\n{condition(recipients)}{recipients()}\n}}\n" for rule in rules)
    return f"{condition(recipients)}{blocks}default_source {{\n{recipients()}\n}}\n"
