"""`when`, relay_from and local_domains: what a configuration says, where its mistakes are, and who gets what."""

from __future__ import annotations

import textwrap
from typing import Any

from twisted.internet.defer import succeed
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mailgate.config.diagnostics import Diagnostic
from mailgate.message.envelope import Envelope, Recipient, TlsFacts
from mailgate.net.waiting import spawn
from mailgate.pipeline.conditions import RCPT_VARIABLES, View
from mailgate.pipeline.routing import Routing
from mailgate.registry import Built, build
from mailgate.smtp.reply import MailError
from tests.pipeline.fakes import address, make_session

PRELUDE = """\
state_dir /nonexistent
local_domains example.org Example.NET
table.static people {
    entry ann@example.org vip
    entry bob@example.org staff
    entry 192.0.2.9 staff
}
target.maildir one ./One
target.maildir two ./Two
target.maildir three ./Three
"""


def built_from(pipeline: str, *, prelude: str = PRELUDE, rest: str = "") -> Built:
    body = textwrap.indent(textwrap.dedent(pipeline).strip("\n"), "    ")
    return build(
        f"{prelude}smtp tcp://127.0.0.1:2525 {{\n{body}\n}}\n{textwrap.dedent(rest)}", environment={"NETS": "10.0.0.0/8"}
    )


def said(built: Built) -> list[tuple[str, str, str]]:
    """(code, what is marked, hint) of everything that is said but warnings of unused tables and targets."""
    return [(one.code, marked(one), one.hint) for one in built.diagnostics if one.code not in ("W0601", "W0802", "W0803")]


def marked(diagnostic: Diagnostic) -> str:
    return diagnostic.span.text if diagnostic.span else ""


class Way:
    """One pipeline, and what becomes of mail in it."""

    def __init__(self, pipeline: str, **fields: Any) -> None:
        built = built_from(pipeline, **fields)
        assert built.configuration is not None, built.diagnostics
        self.configuration = built.configuration
        (self.listener,) = built.configuration.listeners

    def tables(self, name: str, lookup: Any) -> None:
        """Another way for a table to answer."""
        self.configuration.instances[name].lookup = lookup  # type: ignore[attr-defined]

    def of(self, sender: str = "x@other.test", *rcpts: str, **session: Any) -> Any:
        """Where each recipient goes: the target's name, the code of a refusal, or "discard"; of the sender alone if refused."""
        session.setdefault("client_ip", "192.0.2.7")
        envelope = Envelope("1", address(sender), make_session(**session))
        routing = Routing()
        try:
            path = self.now(routing.enter(self.listener.router, envelope))
        except MailError as error:
            return f"MAIL {error.reply.code}"
        answers = [self.one(routing, path, rcpt) for rcpt in rcpts or ("x@other.test",)]
        return answers[0] if len(answers) == 1 else answers

    def one(self, routing: Routing, path: Any, rcpt: str) -> str:
        try:
            plans = self.now(routing.plan(path, Recipient(address(rcpt))))
        except MailError as error:
            return str(error.reply.code)
        return " ".join("discard" if plan.target is None else plan.target.label for plan in plans)

    @staticmethod
    def now(walk: Any) -> Any:
        results: list[Any] = []
        spawn(walk).addBoth(results.append)
        (result,) = results
        return result.raiseException() if isinstance(result, Failure) else result


class WhenTests(SynchronousTestCase):
    def test_the_first_that_is_true_is_taken(self) -> None:
        way = Way(
            """
            when client_ip in [10.0.0.0/8, 2001:db8::/32] {
                deliver_to &one
            }
            when tls && tls_version == "TLS1.3" or auth_user { deliver_to &two }
            when helo == "Mail.Example.COM" { reject 450 }
            deliver_to &three
            """
        )
        self.assertEqual(way.of(), "three")
        self.assertEqual(way.of(client_ip="10.1.2.3"), "one")
        self.assertEqual(way.of(client_ip="2001:db8::7", tls=TlsFacts("TLS1.3", "x")), "one")
        self.assertEqual(way.of(client_ip=""), "three")
        self.assertEqual(way.of(client_ip="fe80::1%eth0"), "three")
        self.assertEqual(way.of(tls=TlsFacts("TLS1.2", "x")), "three")
        self.assertEqual(way.of(tls=TlsFacts("TLS1.3", "x")), "two")
        self.assertEqual(way.of(auth_user="ann"), "two")
        self.assertEqual(way.of(helo="mail.EXAMPLE.com"), "MAIL 450")

    def test_there_is_no_way_back(self) -> None:
        way = Way(
            """
            when sender_domain == "Example.ORG" {
                source ann@example.org { deliver_to &one }
                default_source { reject 550 }
            }
            source bob@example.org { deliver_to &two }
            default_source { deliver_to &three }
            """
        )
        self.assertEqual(way.of("ann@example.org"), "one")
        self.assertEqual(way.of("bob@example.org"), "MAIL 550")
        self.assertEqual(way.of("bob@example.com"), "three")

    def test_in_a_source_block(self) -> None:
        way = Way(
            """
            source <> example.org {
                when sender == "" { deliver_to &one }
                destination a.test { deliver_to &two }
                default_destination { reject }
            }
            default_source { discard }
            """
        )
        self.assertEqual(way.of("", "x@a.test"), "one")
        self.assertEqual(way.of("ann@example.org", "x@a.test", "x@b.test"), ["two", "550"])

    def test_in_a_recipient_block_it_is_decided_for_each(self) -> None:
        way = Way(
            """
            destination example.org postmaster {
                when rcpt matches "^sales" {
                    when tls { deliver_to &one }
                    deliver_to &two
                }
                when rcpt == "Postmaster" and rcpt_domain == "" { discard }
                reject 550 5.1.1 "no such user"
            }
            default_destination { reject 450 }
            """
        )
        self.assertEqual(
            way.of("x@a.test", "SALES@example.org", "x@example.org", "postmaster", "y@b.test"), ["two", "550", "discard", "450"]
        )
        self.assertEqual(way.of("x@a.test", "sales@example.org", tls=TlsFacts("TLS1.3", "x")), "one")

    def test_modifiers_come_before_the_conditions_of_their_block(self) -> None:
        way = Way(
            """
            modify { replace_sender static { entry x@a.test y@b.test } }
            when sender == "y@b.test" {
                modify { replace_rcpt static { entry l@list.test ann@example.org z@z.test } }
                destination example.org z.test {
                    modify { replace_rcpt static { entry z@z.test zoe@z.test } }
                    when rcpt == "zoe@z.test" { deliver_to &two }
                    when rcpt_domain in ["example.org"] { deliver_to &one }
                    reject
                }
                default_destination { reject 450 }
            }
            discard
            """
        )
        self.assertEqual(way.of("x@a.test", "l@list.test", "q@q.test"), ["one two", "450"])
        self.assertEqual(way.of("z@a.test"), "discard")

    def test_checks_of_a_block_that_is_not_taken_are_not_asked(self) -> None:
        router = Way("when tls { deliver_to &one }\ndeliver_to &two").listener.router
        self.assertEqual([condition.test.expression.text for condition in router.conditions], ["tls"])
        self.assertEqual(router.conditions[0].branch.conditions, ())

    def test_in_reroute_and_msgpipeline(self) -> None:
        way = Way(
            """
            destination example.org { reroute {
                when client_ip == 192.0.2.7 { deliver_to &one }
                deliver_to &two
            } }
            default_destination { deliver_to &inner }
            """,
            rest="msgpipeline inner {\n    when is_local(sender_domain) { reject }\n    deliver_to &three\n}",
        )
        self.assertEqual(way.of("x@x.test", "a@example.org", "a@b.test"), ["one", "three"])
        self.assertEqual(way.of("x@x.test", "a@example.org", client_ip="192.0.2.8"), "two")
        self.assertEqual(way.of("x@EXAMPLE.net", "a@b.test"), "550")

    def test_every_variable_has_a_value(self) -> None:
        session = make_session(client_ip="192.0.2.7", client_name="MX.test.", helo="Mx", protocol="ESMTP", auth_user="u")
        session.tls = TlsFacts("TLS1.3", "x", peer_name="Peer.test")
        full = View(Envelope("1", address("A@B.test"), session), address("C@D.test"))
        bare = View(Envelope("1", address(""), make_session()), address("postmaster"))
        for name, variable in RCPT_VARIABLES.items():
            self.assertIsNotNone(getattr(full, name), name)
            self.assertTrue(variable.type.optional or getattr(bare, name) is not None, name)
        self.assertEqual([full.client_name, full.helo, full.sender, full.rcpt], ["mx.test", "mx", "a@b.test", "c@d.test"])
        self.assertEqual(
            [bare.client_ip, bare.client_name, bare.sender, bare.rcpt, bare.tls], [None, None, "", "postmaster", False]
        )


class LookupTests(SynchronousTestCase):
    PIPELINE = """
        when lookup(&people, sender) == "vip" { deliver_to &one }
        destination example.org {
            when lookup(&people, rcpt) { deliver_to &two }
            deliver_to &three
        }
        default_destination { reject }
    """

    def test_by_table(self) -> None:
        way = Way(self.PIPELINE)
        self.assertEqual(way.of("Ann@Example.org", "z@z.test"), "one")
        self.assertEqual(way.of("x@x.test", "bob@example.org", "BOB@example.org", "eve@example.org"), ["two", "two", "three"])

    def test_keys_are_folded(self) -> None:
        way = Way('when lookup(&people, "ANN@" + "Example.ORG") == "vip" { discard }\nreject')
        self.assertEqual(way.of(), "discard")

    def test_a_table_that_waits(self) -> None:
        way = Way(self.PIPELINE)
        way.tables("people", lambda key: succeed(("vip",) if key == "x@x.test" else ()))
        self.assertEqual(way.of("x@x.test", "z@z.test"), "one")

    def test_a_table_that_fails_is_451_and_never_no(self) -> None:
        way = Way(self.PIPELINE)

        def look_up(key: str) -> tuple[str, ...]:
            if key.startswith("bad"):
                raise OSError("gone")
            return ()

        way.tables("people", look_up)
        self.assertEqual(way.of("bad@x.test"), "MAIL 451")
        self.assertEqual(way.of("x@x.test", "bad@example.org", "good@example.org"), ["451", "three"])

    def test_a_division_by_nothing_is_451(self) -> None:
        self.assertEqual(Way("when 1 / len(sender) > 2 { discard }\nreject").of(""), "MAIL 451")

    def test_it_is_a_use_of_the_table(self) -> None:
        prelude = PRELUDE + "table.static other { entry a@b.test x }\n"
        built = built_from("when lookup(&people, sender) { discard }\ndeliver_to &one", prelude=prelude)
        unused = [one.message for one in built.diagnostics if one.code == "W0601"]
        self.assertEqual(sum("people" in message for message in unused), 0)
        self.assertEqual(sum("other" in message for message in unused), 1)


MISTAKES: list[tuple[str, list[tuple[str, str, str]]]] = [
    ("when { discard }\nreject", [("E0404", "", "")]),
    ("when tls\nreject", [("E0407", "", "`{ … }`")]),
    ("when tls { }\nreject", [("E0801", "when", "mail is thrown away only by the word `discard`")]),
    ("when tls { discard }", [("E0801", "smtp", "mail is thrown away only by the word `discard`")]),
    ("when sendr { discard }\nreject", [("E0522", "sendr", "did you mean `sender`?")]),
    (
        "when  sender  ==  5 { discard }\nreject",
        [("E0523", "sender  ==  5", "a number stands without quotes; nothing is converted")],
    ),
    ('when tls and sender == "x@" { discard }\nreject', [("E0523", '"x@"', "")]),
    (
        'when sender == "example.org" { discard }\nreject',
        [("E0523", '"example.org"', "to compare its domain, ask sender_domain or rcpt_domain")],
    ),
    ('when sender_domain in ["a.test", "x@b.test"] { discard }\nreject', [("E0523", '"x@b.test"', 'did you mean "b.test"?')]),
    ('when protocol == "SMPT" { discard }\nreject', [("E0523", '"SMPT"', "possible: SMTP, ESMTP, LMTP")]),
    ('when tls_version == "1.3" { discard }\nreject', [("E0523", '"1.3"', "possible: TLS1, TLS1.1, TLS1.2, TLS1.3")]),
    (
        'when rcpt == "a@b.test" { discard }\nreject',
        [("E0522", "rcpt", "this is decided at MAIL; recipients exist in destination blocks")],
    ),
    (
        "when size > 5 { discard }\nreject",
        [("E0522", "size", "the content has not come when this is decided: write it in `after_body { … }`")],
    ),
    (
        'when header("X") { discard }\nreject',
        [("E0522", "header", "the content has not come when this is decided: write it in `after_body { … }`")],
    ),
    ("when retry_num > 1 { discard }\nreject", [("E0522", "retry_num", "it belongs to the settings of targets and queues")]),
    ("when lookup(&peple, sender) { discard }\nreject", [("E0602", "&peple", "did you mean `&people`?")]),
    ("when lookup(&one, sender) { discard }\nreject", [("E0604", "&one", "")]),
    ("when tls or \\\n    sendr { discard }\nreject", [("E0522", "sendr", "did you mean `sender`?")]),
    ('when tls and "a b"== sendr { discard }\nreject', [("E0522", "sendr", "did you mean `sender`?")]),
    ('when sender=="{"&&!tls { discard }\nreject', [("E0523", '"{"', "to compare its domain, ask sender_domain or rcpt_domain")]),
    ('when sender == "a@b.test { discard }\nreject', [("E0103", '"', 'close it with `"`')]),
    ("when 1 == 1 { discard }\nreject", [("E0804", "reject", "")]),
    ("when 1 == 1 { discard }\nwhen tls { discard }\nreject", [("E0804", "when", "")]),
    ("when not (tls or true) { discard }\nreject", [("E0804", "when", "")]),
    ("when client_ip in [] { discard }\nreject", [("E0804", "when", "")]),
    ("when tls { discard }\nwhen  tls { reject }\nreject", [("E0804", "when", "")]),
    (
        "when sendr { discard }\nwhen tls { deliver_too &one }\nreject",
        [("E0522", "sendr", "did you mean `sender`?"), ("E0401", "deliver_too", "did you mean `deliver_to`?")],
    ),
    ("when tls { deliver_to &one\ndeliver_to &two }\nreject", [("E0806", "deliver_to", "one client, one answer")]),
    (
        "destination a.test {\nwhen rcpt { discard }\nreject\n}\ndefault_destination { reject }",
        [("E0523", "rcpt", "compare it with something")],
    ),
]


class MistakeTests(SynchronousTestCase):
    def test_each_is_marked_and_explained(self) -> None:
        for text, expected in MISTAKES:
            with self.subTest(text=text):
                self.assertEqual(said(built_from(text)), expected, text)

    def test_both_places_of_what_is_never_reached(self) -> None:
        for text, line, other in (
            ("when 1 == 1 { discard }\nreject", 13, "<text>:12:10"),
            ("when tls { discard }\nwhen tls { reject }\nreject", 13, "<text>:12:5"),
            ("when 1 == 2 { discard }\nreject", 12, "<text>:12:10"),
        ):
            (found,) = [one for one in built_from(text).diagnostics if one.is_error]
            self.assertEqual(found.span and found.span.line, line, text)
            self.assertIn(other, found.notes[0], text)

    def test_a_condition_that_is_always_true_alone(self) -> None:
        (found,) = [one for one in built_from("when 1 == 1 { discard }").diagnostics if one.code == "E0804"]
        self.assertEqual(marked(found), "1 == 1")

    def test_through_macros_and_snippets(self) -> None:
        prelude = (
            PRELUDE
            + "$(nets) = [10.0.0.0/8, 192.0.2.0/24]\n$(bad) = sendr\n$(two) = a b\n"
            + "(guard) {\n    when tls and sendr { discard }\n}\n"
        )
        self.assertEqual(Way("when client_ip in $(nets) { discard }\nreject", prelude=prelude).of(), "discard")
        self.assertEqual(
            Way("when client_ip in [{env:NETS}] { discard }\nreject", prelude=prelude).of(client_ip="10.0.0.1"), "discard"
        )
        macro = [
            one for one in built_from("when tls and $(bad) { discard }\nreject", prelude=prelude).diagnostics if one.is_error
        ]
        self.assertEqual([(one.code, marked(one), one.span and one.span.line) for one in macro], [("E0522", "$(bad)", 18)])
        snippet = [one for one in built_from("import guard\nreject", prelude=prelude).diagnostics if one.is_error]
        self.assertEqual([(one.code, marked(one), one.span and one.span.line) for one in snippet], [("E0522", "sendr", 15)])
        self.assertEqual(snippet[0].span and snippet[0].span.via and snippet[0].span.via.kind, "snippet")
        self.assertEqual(
            [one.code for one in built_from("when $(two) { discard }\nreject", prelude=prelude).diagnostics if one.is_error],
            ["E0521"],
        )


class LocalDomainsTests(SynchronousTestCase):
    PIPELINE = """
        destination postmaster { deliver_to &one }
        destination example.org { deliver_to &two }
        default_destination { deliver_to &three }
    """
    TABLE = PRELUDE.replace(
        "local_domains example.org Example.NET", "local_domains &domains\ntable.static domains { entry Example.ORG }"
    )

    def test_the_postmaster_of_each_local_domain(self) -> None:
        for prelude in (PRELUDE, self.TABLE):
            way = Way(self.PIPELINE, prelude=prelude)
            answers = way.of("x@x.test", "postmaster", "PostMaster@Example.org", "x@example.org", "postmaster@other.test")
            self.assertEqual(answers, ["one", "one", "two", "three"])

    def test_a_rule_of_its_own_goes_before(self) -> None:
        for prelude in (PRELUDE, self.TABLE):
            way = Way("destination postmaster@example.org { reject }\n" + textwrap.dedent(self.PIPELINE), prelude=prelude)
            self.assertEqual(way.of("x@x.test", "postmaster", "postmaster@example.org"), ["one", "550"])

    def test_the_table_is_asked_for_postmasters_alone(self) -> None:
        way = Way(self.PIPELINE, prelude=self.TABLE)
        asked: list[str] = []
        way.tables("domains", lambda key: succeed(tuple(asked.append(key) or ["yes"])))  # type: ignore[func-returns-value]
        way.of("x@x.test", "postmaster", "x@example.org", "postmaster@far.test")
        self.assertEqual(asked, ["far.test"])

    def test_a_table_that_fails_is_451(self) -> None:
        way = Way("when is_local(sender_domain) { discard }\n" + textwrap.dedent(self.PIPELINE), prelude=self.TABLE)
        self.assertEqual(way.of("x@EXAMPLE.org"), "discard")

        def broken(key: str) -> tuple[str, ...]:
            raise OSError("gone")

        way.tables("domains", broken)
        self.assertEqual(way.of("x@example.org"), "MAIL 451")
        way = Way(self.PIPELINE, prelude=self.TABLE)
        way.tables("domains", broken)
        self.assertEqual(way.of("x@x.test", "postmaster@far.test", "x@far.test"), ["451", "three"])

    def test_an_inline_table(self) -> None:
        prelude = PRELUDE.replace("local_domains example.org Example.NET", "local_domains regexp (.*)[.]local")
        self.assertEqual(
            Way("when is_local(sender_domain) { discard }\nreject", prelude=prelude).of("a@b.local"),
            "discard",
        )

    def test_mistakes(self) -> None:
        for words, expected in (
            (
                "exa_mple..org other.test @x.test",
                [("E0513", "exa_mple..org", ""), ("E0513", "@x.test", "did you mean `x.test`?")],
            ),
            ("*.example.org", [("E0513", "*.example.org", "did you mean `example.org`?")]),
            ("&nobody", [("E0602", "&nobody", "")]),
            ("&people example.org", [("E0405", "example.org", "")]),
            ("example.org &people", [("E0513", "&people", "either domains, or one table")]),
        ):
            prelude = PRELUDE.replace("example.org Example.NET", words)
            self.assertEqual(said(built_from("discard", prelude=prelude)), expected, words)

    def test_is_local_needs_them(self) -> None:
        built = built_from("when is_local(sender_domain) { discard }\nreject", prelude=PRELUDE.replace("local_domains", "#"))
        self.assertEqual([(code, text) for code, text, _ in said(built)], [("E0522", "is_local(sender_domain)")])


class RelayTests(SynchronousTestCase):
    PIPELINE = """
        relay_from 10.0.0.0/8 2001:db8::/32
        modify { replace_rcpt static { entry out@example.org out@far.test } }
        deliver_to &one
    """

    def test_who_may_send_where(self) -> None:
        way = Way(self.PIPELINE)
        rcpts = ("a@EXAMPLE.org", "a@far.test", "postmaster", "a@example.net", "a@sub.example.org", "out@example.org")
        self.assertEqual(way.of("x@x.test", *rcpts), ["one", "550", "one", "one", "550", "one"])
        for session in ({"client_ip": "10.1.1.1"}, {"client_ip": "2001:db8::1"}, {"client_ip": ""}, {"auth_user": "ann"}):
            self.assertEqual(way.of("x@x.test", *rcpts, **session), ["one"] * 6, session)
        self.assertEqual(way.of("x@x.test", "a@far.test", client_ip="127.0.0.1"), "550")

    def test_it_is_said_before_anything_else(self) -> None:
        way = Way(self.PIPELINE)
        envelope = Envelope("1", address(""), make_session(client_ip="192.0.2.7"))
        routing = Routing()
        path = way.now(routing.enter(way.listener.router, envelope))
        with self.assertRaises(MailError) as caught:
            way.now(routing.plan(path, Recipient(address("a@far.test"))))
        self.assertEqual(str(caught.exception.reply), "550 5.7.1 Relaying denied")
        self.assertEqual(caught.exception.where, "<text>:12")

    def test_local_domains_in_a_table(self) -> None:
        way = Way(self.PIPELINE, prelude=LocalDomainsTests.TABLE)
        self.assertEqual(way.of("x@x.test", "a@example.org", "a@far.test"), ["one", "550"])

        def broken(key: str) -> tuple[str, ...]:
            raise OSError("gone")

        way.tables("domains", broken)
        self.assertEqual(way.of("x@x.test", "a@far.test"), "451")
        self.assertEqual(way.of("x@x.test", "a@far.test", client_ip="10.0.0.1"), "one")

    def test_on_unix_sockets_alone_it_has_no_effect(self) -> None:
        for endpoints, codes in (("unix:///run/in", ["W0714"]), ("unix:///run/in tcp://127.0.0.1:25", [])):
            text = f"{PRELUDE}smtp {endpoints} {{\n    relay_from 10.0.0.0/8\n    deliver_to &one\n}}\n"
            self.assertEqual([one.code for one in build(text, environment={}).diagnostics if one.code == "W0714"], codes)

    def test_without_it_the_rules_decide(self) -> None:
        self.assertEqual(Way("deliver_to &one").of("x@x.test", "a@far.test"), "one")
