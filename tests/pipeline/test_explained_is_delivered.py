"""Random configurations and envelopes: where `explain` says that mail goes is where the transaction brings it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from twisted.trial.unittest import SynchronousTestCase

from mailgate.interfaces import ITable
from mailgate.message.body import Spool
from mailgate.net.waiting import begin
from mailgate.pipeline.explain import Explanation, Question, explain, read_address
from mailgate.pipeline.lookup import Lookups
from mailgate.pipeline.trace_tree import Kind
from mailgate.pipeline.transaction import Transaction
from mailgate.registry import Configuration, build
from mailgate.smtp.reply import Reply
from tests.pipeline.fakes import make_adapters

DOMAINS = ("a.test", "b.test", "sub.a.test", "deep.sub.a.test", "c.test")
LOCAL_PARTS = ("ann", "bob", "list", "postmaster")
IPS = ("10.1.2.3", "192.0.2.1", "2001:db8::1")
CONDITIONS = (
    "tls",
    "not tls",
    "client_ip in [10.0.0.0/8]",
    'sender_domain == "a.test" or tls',
    'helo == "known.test"',
    'lookup(&aliases, sender) == "bob@b.test"',
    'auth_user ?? "" == "ann"',
)
RCPT_CONDITIONS = (*CONDITIONS, 'rcpt_domain in [".a.test"]', 'localpart(rcpt) == "bob"')
HEAD = """hostname mx.test
tls off
local_domains a.test b.test
table.static aliases {
    entry list@a.test ann@a.test bob@b.test
    entry ann@b.test ann@a.test
    entry bob list
    entry ann@a.test bob@b.test
}
table.regexp moved "(.*)@c\\\\.test" "$1@a.test"
table.static senders {
    entry ann@a.test ann@b.test
    entry bob@c.test "<>"
}
table.static known {
    entry bob@b.test
    entry ann@c.test
}
target.smtp hub {
    targets unix:///run/hub
    tls_default_ca no
}
target.lmtp store {
    targets unix:///run/store unix:///run/spare
    tls_default_ca no
}
target.lmtp archive {
    targets unix:///run/archive
    tls_default_ca no
}
msgpipeline inner {
    destination a.test {
        deliver_to &store
    }
    default_destination {
        modify {
            replace_rcpt &moved
        }
        deliver_to &hub
    }
}
"""


class Writer:
    """Writes random pipelines, no two rules of a level alike. A few of them are refused at load all the same."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def configuration(self) -> str:
        choice = self.random
        body = self.level(0, source=True, relaying=True)
        split = "on_split allow\n" if choice.random() < 0.4 else ""
        relay = "relay_from 10.0.0.0/8\n" if choice.random() < 0.3 else ""
        word = choice.choice(("smtp", "smtp", "lmtp"))
        return HEAD + f"{word} tcp://127.0.0.1:2525 {{\n{split}{relay}{body}}}\n"

    def level(self, depth: int, *, source: bool, relaying: bool = False) -> str:
        text = self.modifiers(sender=True)
        if depth < 2 and self.random.random() < 0.3:
            text += f"when {self.random.choice(CONDITIONS)} {{\n{self.level(depth + 1, source=source)}}}\n"
        kind = self.random.random()
        if source and kind < 0.4:
            return text + self.rules("source", depth)
        if kind < 0.9:
            return text + self.rules("destination", depth)
        return text + self.handling(depth)

    def rules(self, side: str, depth: int) -> str:
        text = ""
        if self.random.random() < 0.3:
            text += f"{side}_in &{self.random.choice(('known', 'moved'))} {{\n{self.inner(side, depth)}}}\n"
        words = [f"{name}@{domain}" for name in LOCAL_PARTS for domain in DOMAINS[:3]] + [*DOMAINS, ".a.test", ".test"]
        words.append("<>" if side == "source" else "postmaster")
        chosen = self.random.sample(words, self.random.randint(1, 5))
        while chosen:
            number = self.random.randint(1, 2)
            text += f"{side} {' '.join(chosen[:number])} {{\n{self.inner(side, depth)}}}\n"
            chosen = chosen[number:]
        return text + f"default_{side} {{\n{self.inner(side, depth)}}}\n"

    def inner(self, side: str, depth: int) -> str:
        if side == "source":
            return self.level(depth + 1, source=False)
        text = self.modifiers(sender=self.random.random() < 0.2)
        if self.random.random() < 0.3:
            text += f"when {self.random.choice(RCPT_CONDITIONS)} {{\n{self.handling(depth + 1)}}}\n"
        return text + self.handling(depth + 1)

    def modifiers(self, *, sender: bool) -> str:
        lines = ""
        if self.random.random() < 0.3:
            lines += f"replace_rcpt &{self.random.choice(('aliases', 'moved'))}\n"
        if sender and self.random.random() < 0.3:
            lines += "replace_sender &senders\n"
        return f"modify {{\n{lines}}}\n" if lines else ""

    def handling(self, depth: int) -> str:
        kind = self.random.random()
        if kind < 0.5:
            targets = self.random.sample(("hub", "store", "archive", "inner"), 2 if self.random.random() < 0.15 else 1)
            return "".join(f"deliver_to &{target}\n" for target in targets)
        if kind < 0.7:
            return self.random.choice(("reject\n", 'reject 550 5.1.1 "no such user"\n', "reject 450\n"))
        if kind < 0.85 or depth > 2:
            return "discard\n"
        return f"reroute {{\n{self.level(depth + 1, source=True)}}}\n"

    def question(self) -> Question:
        addresses = [f"{name}@{domain}" for name in (*LOCAL_PARTS, "carl") for domain in (*DOMAINS, "other.example")]
        sender = self.random.choice([*addresses, ""])
        recipients = [self.random.choice([*addresses, "postmaster"]) for _ in range(self.random.randint(1, 3))]
        return Question(
            read_address(sender),
            tuple(map(read_address, recipients)),
            self.random.choice(IPS),
            self.random.choice(("known.test", "other.test")),
            self.random.choice(("", "ann")),
            self.random.random() < 0.5,
        )


class Sink:
    """Stands at the end of live mail: takes everything and writes down for whom."""

    def __init__(self, target: Any, sent: list[tuple[str, str, str]], envelope: Any) -> None:
        self.label = target.label
        self.sender = str(envelope.sender)
        self.sent = sent
        self.accepted: list[Any] = []

    def rcpt(self, recipient: Any) -> Reply:
        self.accepted.append(recipient)
        return Reply(250, "2.1.5", "Ok")

    def withdraw(self, recipients: Any) -> None:
        self.accepted = [one for one in self.accepted if one not in recipients]

    def send(self, message: Any) -> list[Reply]:
        self.sent += [(self.label, self.sender, str(one.address)) for one in self.accepted]
        return [Reply(250, "2.0.0", "taken") for _ in self.accepted]

    def abort(self) -> None: ...


def delivered(configuration: Configuration, question: Question) -> tuple[list[Any], list[tuple[str, str, str]]]:
    """What live mail hears (MAIL, each RCPT, each reply to the dot), and what its next hops get."""
    sent: list[tuple[str, str, str]] = []
    for module in configuration.modules:
        if type(module).name.startswith("target."):
            vars(module)["open"] = lambda envelope, module=module: Sink(module, sent, envelope)
    (listener,) = configuration.listeners
    adapters = make_adapters()
    settings = listener.transaction_settings(adapters, Spool(1 << 30, adapters))  # type: ignore[attr-defined]
    transaction = Transaction(listener.router, question.session(listener), settings, "dry")  # type: ignore[attr-defined]
    heard: list[Any] = [transaction.mail(question.sender)]
    heard += [transaction.rcpt(address) for address in question.recipients] if heard[0].is_success else []
    if any(reply.is_success for reply in heard[1:]):
        assert transaction.data() is None
        transaction.append(question.content)
        heard += transaction.end()  # type: ignore[arg-type]
    transaction.abort()
    return heard, sorted(sent)


def explained(configuration: Configuration, question: Question) -> Explanation:
    (listener,) = configuration.listeners
    with Lookups([module for module in configuration.modules if ITable.providedBy(module)]) as lookups:
        found = begin(explain(listener, question, lookups))
    assert isinstance(found, Explanation)
    return found


def heard_of(explanation: Explanation, *, per_recipient: bool) -> list[Reply]:
    heard = [explanation.sender.reply, *(one.step.reply for one in explanation.recipients)]
    finals = [one.final for one in explanation.recipients if one.final is not None]
    return heard + (finals if per_recipient else finals[:1])


def comparable(reply: Reply) -> Any:
    """Next hops differ in how they say yes."""
    return (reply.code, reply.enhanced) if reply.is_success else reply


class ExplainedIsDeliveredTests(SynchronousTestCase):
    def run_pairs(self, pairs: int, first: int) -> None:
        done = refused = seed = 0
        kinds: set[Kind] = set()
        outcomes: set[str] = set()
        while done < pairs:
            writer = Writer(first + seed)
            seed += 1
            text = writer.configuration()
            configuration = build(text, make_adapters(), environment={}).configuration
            if configuration is None:
                refused += 1
                continue
            for _ in range(10):
                question = writer.question()
                explanation = explained(configuration, question)
                heard, sent = delivered(configuration, question)
                (listener,) = configuration.listeners
                said = heard_of(explanation, per_recipient=listener.lmtp)  # type: ignore[attr-defined]
                context = f"seed {first + seed - 1}\n{text}\n{question}"
                self.assertEqual(list(map(comparable, said)), list(map(comparable, heard)), context)
                routes = sorted(
                    (outcome.target, outcome.sender, outcome.address)
                    for one in explanation.recipients
                    for outcome in one.outcomes
                    if outcome.target
                )
                self.assertEqual(routes, sent, context)
                for step in explanation.steps():
                    kinds.update(node.kind for node in step.tree.walk())
                outcomes.add("delivered" if sent else "refused")
                outcomes.update(str(reply.code) for reply in heard)
                done += 1
            for module in configuration.modules:
                vars(module).pop("open", None)
        self.assertLess(refused, seed * 0.7, "hardly a configuration is sound")
        self.assertEqual(kinds, set(Kind), "not every kind of decision was met")
        self.assertLessEqual({"delivered", "refused", "250", "550", "450", "452"}, outcomes)

    def test_some_pairs(self) -> None:
        self.run_pairs(300, first=0)

    @pytest.mark.slow
    def test_ten_thousand_pairs(self) -> None:
        self.run_pairs(10_000, first=10_000)
