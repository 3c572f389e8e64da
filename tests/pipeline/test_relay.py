"""Open relays are found, and their proofs hold on the wire; sound files hear nothing.

Files are made of shapes: a way in which mail gets out, inside each of the ways in which pipelines hold each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mailgate.config.diagnostics import Diagnostic, render
from mailgate.registry import build
from mailgate.testing.client import connect
from mailgate.testing.nexthop import NextHop
from tests.support.scenario import SimulatedCase

LISTENER = "tcp://192.0.2.1:25"
REFUSE = "default_destination {\n reject 550\n}"
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

NESTED = {
    "directly": "{}",
    "behind reroute": "reroute {{\n{}\n}}",
    "for a sender one can forge": "source example.org {{\n{}\n}}\ndefault_source {{\n reject 550\n}}",
    "for senders of a table": "source_in &staff {{\n{}\n}}\ndefault_source {{\n reject 550\n}}",
    "for the null sender": "source <> {{\n{}\n}}\ndefault_source {{\n reject 550\n}}",
}

SOUND = {
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


def proof(diagnostic: Diagnostic) -> tuple[str, bytes, bytes]:
    """Client, sender and recipient, as the diagnostic says them."""
    (found,) = (re.match(r"shown by: client (\S+), MAIL FROM:<(.*)>, RCPT TO:<(.*)>: ", note) for note in diagnostic.notes[:1])
    assert found is not None, diagnostic.notes
    return found[1], found[2].encode(), found[3].encode()


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
                self.gateway(text.replace("hostname mx.example.org\n", ""))
                for client_ip, sender, recipient in map(proof, found):
                    client = self.reactor.run(connect(self.reactor, LISTENER, source=client_ip))
                    self.reactor.run(client.reply())
                    replies = self.say(client, b"EHLO x.test", b"MAIL FROM:<%s>" % sender, b"RCPT TO:<%s>" % recipient)
                    self.assertEqual(replies[-1][:3], b"250", (name, replies[-1], recipient))
                    self.reactor.run(client.quit())
                tried += 1
        self.assertGreaterEqual(tried, 50)


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

    def test_without_local_domains_what_rules_name_is_ours(self) -> None:
        named = f"destination example.org example.net {{\n deliver_to &store\n}}\n{REFUSE}"
        self.assertEqual(relays(whole(named, top="")), [])
        self.assertEqual(len(relays(whole("deliver_to &next", top=""))), 1)
