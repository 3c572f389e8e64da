"""Open relays are found, and their proofs hold on the wire; sound files hear nothing.

Files are made of shapes: a way in which mail gets out, inside each of the ways in which pipelines hold each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from mailgate.config.diagnostics import Diagnostic, render
from mailgate.modules.table.static import StaticTable
from mailgate.pipeline.lookup import Kept
from mailgate.registry import build
from mailgate.testing.client import connect
from mailgate.testing.nexthop import NextHop
from mailgate.tls.client import ClientContext
from tests.support.scenario import SimulatedCase

LISTENER = "tcp://192.0.2.1:25"
REFUSE = "default_destination {\n reject 550\n}"
REFUSE_ALL = "destination example.org {\n deliver_to &store\n}\n" + REFUSE
ALIASES = "entry sales@example.org ann@partner.test"

OPEN = {
    "no rules at all": "deliver_to &next",
    "the default delivers": "destination example.org {\n deliver_to &store\n}\ndefault_destination {\n deliver_to &next\n}",
    "a domain that is not ours": f"destination example.org partner.test {{\n deliver_to &next\n}}\n{REFUSE}",
    "one foreign address": f"destination ann@partner.test {{\n deliver_to &next\n}}\n{REFUSE}",
    "all of a top-level domain": f"destination .com {{\n deliver_to &next\n}}\n{REFUSE}",
    "a table that has everybody": "destination_in identity {\n deliver_to &next\n}\n" + REFUSE,
    "an expression that finds everybody": f'destination_in regexp ".+@.+" {{\n deliver_to &next\n}}\n{REFUSE}',
    "a missing anchor": f'destination_in regexp ".*example[.]org" {{\n deliver_to &next\n}}\n{REFUSE}',
    "a dot that is any character": f'destination_in regexp "[^@]+@mail.example.org" {{\n deliver_to &next\n}}\n{REFUSE}',
    "a local part at any domain": "destination_in &anywhere {\n deliver_to &next\n}\n" + REFUSE,
    "a foreign key": f"destination_in &foreign {{\n deliver_to &next\n}}\n{REFUSE}",
    "the percent hack": 'modify {\n replace_rcpt regexp "(.+)%(.+)@example[.]org" "$1@$2"\n}\n'
    "destination example.org {\n deliver_to &store\n}\ndefault_destination {\n deliver_to &next\n}",
    "everybody becomes another": 'destination_in regexp ".+" {\n modify {\n replace_rcpt regexp "(.+)@.+" "$1@partner.test"\n }\n'
    f" deliver_to &next\n}}\n{REFUSE}",
}

OPEN |= {
    "clients that say a name": 'when helo == "mx.partner.test" {\n deliver_to &next\n}\n' + REFUSE_ALL,
    "what the content may say": 'after_body {\n when header("X") == "a" {\n deliver_to &next\n }\n reject\n}',
    "what the content may not say": 'after_body {\n when header("X") == "a" {\n reject\n }\n deliver_to &next\n}',
    "clients with TLS": "when tls {\n deliver_to &next\n}\n" + REFUSE_ALL,
    "all but some": "when client_ip in [10.0.0.0/8] {\n reject\n}\ndeliver_to &next",
    "everybody is trusted": "when client_ip in [0.0.0.0/0] {\n deliver_to &next\n}\n" + REFUSE_ALL,
    "recipients of some domain": 'default_destination {\n when rcpt_domain == "partner.test" {\n deliver_to &next\n }\n'
    " reject\n}",
    "recipients and clients": 'default_destination {\n when tls and rcpt_domain matches "^partner" {\n deliver_to &next\n }\n'
    " reject\n}",
}

NESTED = {
    "directly": "{}",
    "behind reroute": "reroute {{\n{}\n}}",
    "for a sender one can forge": "source example.org {{\n{}\n}}\ndefault_source {{\n reject 550\n}}",
    "for senders of a table": "source_in &staff {{\n{}\n}}\ndefault_source {{\n reject 550\n}}",
    "for the null sender": "source <> {{\n{}\n}}\ndefault_source {{\n reject 550\n}}",
}

SOUND = {
    "clients of ours": "when client_ip in [10.0.0.0/8, 2001:db8::/32] and tls {\n deliver_to &next\n}\n" + REFUSE_ALL,
    "those who logged in": "when auth_user {\n deliver_to &next\n}\n" + REFUSE_ALL,
    "clients with a certificate": 'when client_cert_name == "mx.partner.test" {\n deliver_to &next\n}\n' + REFUSE_ALL,
    "recipients of ours": "default_destination {\n when is_local(rcpt_domain) {\n deliver_to &store\n }\n reject\n}",
    "not those who are not ours": "default_destination {\n when not is_local(rcpt_domain) {\n reject\n }\n deliver_to &store\n}",
    "our domains": f"destination example.org {{\n deliver_to &store\n}}\n{REFUSE}",
    "below our domains": f"destination example.org .example.org {{\n deliver_to &store\n}}\n{REFUSE}",
    "people of a table": f"destination_in &staff {{\n deliver_to &store\n}}\n{REFUSE}",
    "an exact expression": f'destination_in regexp "[^@]+@(mail[.])?example[.]org" {{\n deliver_to &store\n}}\n{REFUSE}',
    "aliases that lead outside": f"destination example.org {{\n modify {{\n replace_rcpt static {{\n {ALIASES}\n }}\n }}\n"
    f" deliver_to &next\n}}\n{REFUSE}",
    "the rest is thrown away": "destination example.org {\n deliver_to &store\n}\ndefault_destination {\n discard\n}",
    "everybody becomes one of us": 'modify {\n replace_rcpt regexp ".+" catchall@example.org\n}\ndeliver_to &store',
}


def whole(pipeline: str, listener: str = LISTENER, top: str = "local_domains example.org") -> str:
    return f"""hostname mx.example.org
tls off
{top}
target.smtp next {{
    targets tcp://10.0.0.9:25
    tls disabled
}}
target.smtp store {{
    targets tcp://10.0.0.8:25
    tls disabled
}}
table.static staff {{
    entry bob@example.org
    entry carol@example.org
}}
table.static foreign {{
    entry dave@partner.test
}}
table.chain anywhere {{
    step email_localpart
    step static {{
        entry bob
    }}
}}
smtp {listener} {{
{pipeline}
}}
"""


def files(shapes: dict[str, str]) -> Iterator[tuple[str, str]]:
    for way, pipeline in shapes.items():
        for nesting, outer in NESTED.items():
            yield f"{way}, {nesting}", whole(outer.format(pipeline))


def relays(text: str) -> list[Diagnostic]:
    built = build(text)
    assert built.configuration is not None, render(built.diagnostics) + text
    return [diagnostic for diagnostic in built.diagnostics if diagnostic.code == "W0803"]


class Proof(NamedTuple):
    """What a diagnostic says that one should try."""

    client: str
    tls: bool
    helo: bytes
    sender: bytes
    recipient: bytes


_PROOF = re.compile(r"shown by: client ([^ ,]+)(, TLS)?(?:, EHLO (\S+))?, MAIL FROM:<(.*)>, RCPT TO:<(.*)>: ")


def proof(diagnostic: Diagnostic) -> Proof:
    (found,) = (_PROOF.match(note) for note in diagnostic.notes[:1])
    assert found is not None, diagnostic.notes
    client, tls, helo, sender, recipient = found.groups()
    return Proof(client, tls is not None, (helo or "x.test").encode(), sender.encode(), recipient.encode())


class OpenRelayTests(SimulatedCase):
    def test_each_is_found_and_its_proof_is_accepted_on_the_wire(self) -> None:
        tried = 0
        for name, text in files(OPEN):
            with self.row(name):
                found = relays(text)
                self.assertTrue(found, f"not found:\n{text}")
                (warning, *_) = found
                assert warning.span is not None
                self.assertIn("deliver_to", warning.span.text)
                for address in ("10.0.0.8", "10.0.0.9"):
                    self.hops.append(NextHop().listen(self.reactor, port=25, interface=address))
                started = text.replace("hostname mx.example.org\n", "")
                self.gateway(started.replace("tls off", "tls self_signed", 1) if ", TLS," in found[0].notes[0] else started)
                for shown in map(proof, found):
                    reply = self.reply_to(shown)
                    self.assertEqual(reply[:3], b"250", (name, reply, shown))
                tried += 1
        self.assertGreaterEqual(tried, 50)

    def reply_to(self, shown: Proof) -> bytes:
        """What the gateway says to the recipient of a proof."""
        client = self.reactor.run(connect(self.reactor, LISTENER, source=shown.client))
        self.reactor.run(client.reply())
        self.say(client, b"EHLO " + shown.helo)
        if shown.tls:
            self.reactor.run(client.secure(ClientContext().connection_creator("mx.example.org")))
            self.say(client, b"EHLO " + shown.helo)
        reply = self.say(client, b"MAIL FROM:<%s>" % shown.sender, b"RCPT TO:<%s>" % shown.recipient)[-1]
        self.reactor.run(client.quit())
        return reply


class SoundTests(SimulatedCase):
    def test_nothing_is_said_of_sound_files(self) -> None:
        tried = 0
        for name, text in files(SOUND):
            self.assertEqual(render(relays(text)), "", name)
            tried += 1
        self.assertGreaterEqual(tried, 30)

    def test_listeners_that_only_this_machine_reaches(self) -> None:
        for listener in ("tcp://127.0.0.1:25", "tcp://[::1]:25", "unix:///run/x.sock", "tcp://127.0.0.1:25 unix:///run/x.sock"):
            self.assertEqual(relays(whole("deliver_to &next", listener)), [], listener)
        for listener in ("tcp://*:25", "tcp://127.0.0.1:25 tcp://192.0.2.1:25", "tcp://10.0.0.1:25"):
            self.assertEqual(len(relays(whole("deliver_to &next", listener))), 1, listener)

    def test_a_listener_that_says_who_may_relay(self) -> None:
        for pipeline, count in [
            ("deliver_to &next", 0),
            (OPEN["the default delivers"], 0),
            (OPEN["the percent hack"], 1),
        ]:
            self.assertEqual(len(relays(whole(f"relay_from 10.0.0.0/8\n{pipeline}"))), count, pipeline)

    def test_senders_are_forged_for_conditions_too(self) -> None:
        for condition in ("is_local(sender_domain)", 'lookup(&staff, sender) == ""', 'sender_domain in [".example.net"]'):
            (found,) = relays(whole(f"when {condition} {{\n deliver_to &next\n}}\n{REFUSE_ALL}"))
            self.assertIn("MAIL FROM:<", found.notes[0])

    def test_a_table_that_is_not_asked_has_only_keys_of_the_operator_but_senders_are_forged(self) -> None:
        asked: list[str] = []
        self.patch(StaticTable, "kept", Kept.ELSEWHERE)
        self.patch(StaticTable, "lookup", lambda _, key: asked.append(key))
        self.patch(StaticTable, "static_keys", frozenset())
        rules = "{} &staff {{\n deliver_to &next\n}}\ndefault_{} {{\n reject\n}}"
        self.assertEqual(relays(whole(rules.format("destination_in", "destination"))), [])
        (found,) = relays(whole(rules.format("source_in", "source")))
        self.assertIn("MAIL FROM:<any key of table `staff`>", found.notes[0])
        self.assertEqual(relays(whole(f'when lookup(&staff, sender) == "" {{\n deliver_to &next\n}}\n{REFUSE_ALL}')), [])
        self.assertEqual(asked, [])

    def test_without_local_domains_what_rules_name_is_ours(self) -> None:
        named = f"destination example.org example.net {{\n deliver_to &store\n}}\n{REFUSE}"
        self.assertEqual(relays(whole(named, top="")), [])
        self.assertEqual(len(relays(whole("deliver_to &next", top=""))), 1)
