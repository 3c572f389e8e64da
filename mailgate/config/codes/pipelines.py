"""Pipelines, tables, modifiers and tests: E08, W08, E09."""

from __future__ import annotations

from mailgate.config.codes.entry import Entry, lmtp

_DEFAULT = "default_destination {\n        reject 550\n    }"
_OURS = "destination example.org postmaster {\n        discard\n    }\n    "


def _in_table(table: str) -> str:
    """A file whose recipients are looked up."""
    return lmtp(f"destination_in {table} {{\n        discard\n    }}\n    default_destination {{\n        discard\n    }}")


def _aliases(*lines: str) -> str:
    inner = "".join(f"    {line}\n" for line in lines)
    return _in_table("&aliases") + f"table.chain aliases {{\n{inner}}}\n"


_RELAY = """local_domains example.org
target.smtp next {{
    targets tcp://10.0.0.1:25
    tls disabled
}}
smtp tcp://192.0.2.1:25 {{
    {}
}}
"""

_AFTER_BODY = """target.queue later {{
    target lmtp unix://store.sock
    bounce {{
        discard
    }}
}}
{} {{
    tls off
    after_body {{
        destination example.org {{
            when size > 1000000 {{
                reject 552 5.3.4
            }}
            deliver_to &later
        }}
        default_destination {{
            deliver_to &later
        }}
    }}
}}
"""

CODES = {
    "E0801": Entry(
        "a block that decides nothing",
        "Mail that comes here would have no fate. It is thrown away only by the word `discard`. The note has an envelope that"
        " comes here.",
        bad=lmtp("destination example.org {\n    }\n    default_destination {\n        discard\n    }"),
        good=lmtp("destination example.org {\n        reject\n    }\n    default_destination {\n        discard\n    }"),
    ),
    "E0808": Entry(
        "`on_split queue` without a queue",
        "What a next hop does not take at once must be kept somewhere, and only a target.queue keeps anything.",
        bad=lmtp("on_split queue &store\ndiscard", "target.maildir store ./store\n"),
        good=lmtp("on_split defer\ndiscard"),
    ),
    "E0814": Entry(
        "`copy_to` without a queue",
        "A copy must not change what the client hears, so it is not sent on while the client waits: it goes into a queue.",
        bad=lmtp("copy_to &store\ndeliver_to lmtp unix://other.sock", "target.maildir store ./store\n"),
        good=lmtp("deliver_to lmtp unix://other.sock"),
    ),
    "E0815": Entry(
        "`reports` without a queue",
        "A report to a sender must not be lost, nor hold up the answer to a client: it goes into a queue.",
        bad=lmtp("reports &store\ndiscard", "target.maildir store ./store\n"),
        good=lmtp("discard"),
    ),
    "E0816": Entry(
        "`after_body` may come to several targets",
        "Recipients hear 250 before the content decides. So what it decides between must take them in any case: queues, or always"
        " the same target, which is asked when the content is here.",
        bad=lmtp(
            "after_body {\n        when size > 1000000 {\n            deliver_to lmtp unix://a.sock\n        }\n"
            "        deliver_to lmtp unix://b.sock\n    }"
        ),
        good=lmtp(
            "after_body {\n        when size > 1000000 {\n            reject 552 5.3.4\n        }\n"
            "        deliver_to lmtp unix://b.sock\n    }"
        ),
    ),
    "E0817": Entry(
        "`after_body` refuses the content for some recipients",
        "SMTP has one answer to a message, for all of its recipients: the content is refused for all of them, or for none."
        " Recipients are refused at RCPT, outside of `after_body`; an `lmtp` listener has an answer for each.",
        bad=_AFTER_BODY.format("smtp tcp://127.0.0.1:25"),
        good=_AFTER_BODY.format("lmtp tcp://127.0.0.1:24"),
    ),
    "E0818": Entry(
        "a check of the sum stands in `after_body`",
        "What checks have counted is judged when all of them are done, and `after_body` decides by what came of it.",
        bad=lmtp(
            "after_body {\n        check {\n            score {\n                reject_threshold 10\n            }\n        }\n"
            "        discard\n    }"
        ),
        good=lmtp(
            "check {\n        score {\n            reject_threshold 10\n        }\n    }\n"
            "    after_body {\n        discard\n    }"
        ),
    ),
    "E0819": Entry(
        "a promise for later without a queue",
        "`mt_priority`, `future_release` and `deliver_by` offer clients that a message waits, or does not wait too long. Only a"
        " target.queue can keep that: everything such a listener delivers to is one.",
        bad=lmtp("future_release 1d\n    deliver_to lmtp unix://store.sock"),
        good=lmtp("deliver_to lmtp unix://store.sock"),
    ),
    "W0801": Entry(
        "`on_split allow` may deliver twice",
        "When one of several next hops refuses after others accepted, the client is told to try again, and those who have the"
        " message get it again. `defer` asks for one transaction each.",
        bad=lmtp("on_split allow\ndiscard"),
        good=lmtp("on_split defer\ndiscard"),
    ),
    "E0802": Entry(
        "decisions that exclude each other",
        "A block delivers, rejects, discards, reroutes, or has rules: one of them.",
        bad=lmtp("discard\nreject"),
        good=lmtp("discard"),
    ),
    "W0802": Entry(
        "mail to the postmaster is refused",
        "RFC 5321 4.5.1: every server accepts mail to <postmaster>, without a domain. Give it a rule: `destination postmaster`.",
        bad=lmtp("destination example.org {\n        discard\n    }\n    " + _DEFAULT),
        good=lmtp(_OURS + _DEFAULT),
    ),
    "E0803": Entry(
        "rules without a default",
        "What no rule matches needs a decision too: `default_source` or `default_destination`. The note has an envelope that"
        " meets none.",
        bad=lmtp("destination example.org {\n        discard\n    }"),
        good=lmtp(_OURS + _DEFAULT),
    ),
    "W0803": Entry(
        "an open relay",
        "A client that did not log in, from an address that nothing names as trusted, gets mail for a domain outside"
        " `local_domains` to a target. The note has an envelope to try: spammers will. Say who may relay with `relay_from`, or"
        " refuse what no rule names. Senders are no proof of anything: anybody can write any.",
        bad=_RELAY.format("deliver_to &next"),
        good=_RELAY.format("relay_from 10.0.0.0/24\n    deliver_to &next"),
    ),
    "E0804": Entry(
        "a rule that can never match",
        "Another rule or table before it takes all that it would: a duplicate, or shadowed. Both places are named.",
        bad=lmtp("destination a.test Postmaster A.TEST {\n        discard\n    }\n    " + _DEFAULT),
        good=lmtp("destination a.test postmaster {\n        discard\n    }\n    " + _DEFAULT),
    ),
    "E0805": Entry(
        "no rule",
        "A rule is a full address, a domain, `.domain` for its sub-domains, `postmaster` for recipients, `<>` for senders.",
        bad=lmtp("destination @example.org postmaster {\n        discard\n    }\n    " + _DEFAULT),
        good=lmtp(_OURS + _DEFAULT),
    ),
    "E0806": Entry(
        "several copies with an irrevocable answer each",
        "If one next hop refuses after another accepted, no answer to the client is true for both. At most one target of a block"
        " may be anything but a queue.",
        bad=lmtp("deliver_to smtp tcp://10.0.0.1:25\n    deliver_to smtp tcp://10.0.0.2:25"),
        good=lmtp("deliver_to smtp tcp://10.0.0.1:25 tcp://10.0.0.2:25"),
    ),
    "E0807": Entry(
        "a pipeline that leads back to itself",
        "Mail would go round for ever. The note has the circle.",
        bad=lmtp("deliver_to &a", "msgpipeline a {\n    deliver_to &b\n}\nmsgpipeline b {\n    deliver_to &a\n}\n"),
        good=lmtp("deliver_to &a", "msgpipeline a {\n    deliver_to &b\n}\nmsgpipeline b {\n    discard\n}\n"),
    ),
    "E0809": Entry(
        "a check that judges connections stands where only messages come",
        "The stages connection, tls and auth are judged before any rule is asked, so only checks at the top of a listener's block"
        " have them.",
        needs="a check of another package with such a stage alone",
    ),
    "W0809": Entry(
        "a check does not judge all it could",
        "It judges messages here. What it would say of connections, their TLS or logins is asked only at the top of a listener's"
        " block.",
        needs="a check of another package with such a stage",
    ),
    "E0810": Entry(
        "a table's file can't be used",
        "It is missing, can't be read, is not UTF-8, or has a line without a key.",
        bad=_in_table("file ./missing"),
        good=_in_table("file ./aliases"),
        files={"aliases": "ann@example.org: ann\n"},
    ),
    "E0811": Entry(
        "a regular expression that is none",
        "It does not compile, or a replacement names a group that it does not have.",
        bad=_in_table('regexp "(.+@example.org"'),
        good=_in_table('regexp "(.+)@example[.]org"'),
    ),
    "E0812": Entry(
        "a chain of tables that is none",
        "A chain has at least one step, and no step leads back to it.",
        bad=_aliases(),
        good=_aliases("step static {", "    entry a b", "}"),
    ),
    "E0813": Entry(
        "no domain",
        "What stands behind `email_with_domain` is put behind a local part, so it must be a domain.",
        bad=_in_table("email_with_domain @example.org"),
        good=_in_table("email_with_domain example.org"),
    ),
    "E0820": Entry(
        "an unknown placeholder in a path",
        "In the path of a Maildir `{user}` and `{domain}` stand for the recipient's.",
        bad=lmtp("deliver_to maildir ./Maildir/{name}"),
        good=lmtp("deliver_to maildir ./Maildir/{user}"),
    ),
    "E0901": Entry(
        "a test of the configuration fails",
        "The envelope of a `test` block does not come to what it expects. The notes say where it went.",
        bad=lmtp("discard") + 'test "t" {\n    rcpt b@example.org\n    from a@example.org\n    expect reject\n}\n',
        good=lmtp("discard") + 'test "t" {\n    rcpt b@example.org\n    from a@example.org\n    expect discard\n}\n',
    ),
    "E0902": Entry(
        "a test needs an answer of a table",
        "Tests ask nobody: what a live table would say is given in the test: `given &table KEY = VALUE`, and"
        " `* = none` for the rest.",
        needs="a table that is asked over the network",
    ),
    "E0903": Entry(
        "a test that can't be run",
        "It names a listener, an address or a target that is not there.",
        bad=lmtp("discard") + 'test "t" {\n    from a@\n    rcpt b@example.org\n    expect discard\n}\n',
        good=lmtp("discard") + 'test "t" {\n    from a@example.org\n    rcpt b@example.org\n    expect discard\n}\n',
    ),
}
