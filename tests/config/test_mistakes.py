"""Mistakes that operators make, one at a time in a whole file (mistaken.conf), and what is said of each: its place, its code and
the hint beside the caret. One mistake is one error; where it is more, each further one is a line that really has to change or
that nothing else can explain.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mailgate.config.diagnostics import Diagnostic, render
from mailgate.pipeline.testblock import run_tests
from mailgate.registry import build

SOUND = (Path(__file__).parent / "mistaken.conf").read_text()

MISTAKES: list[tuple[str, str, str, str, str]] = [
    # what, written instead of, this; found, with the hint of the first
    (
        "missing close brace of target",
        "    max_connections 50\n}",
        "    max_connections 50\n",
        "E0203@9:19",
        "its `}` is missing",
    ),
    (
        "missing close brace inner",
        '    default_destination {\n        reject 550 5.7.1 "relaying denied"\n    }\n}',
        '    default_destination {\n        reject 550 5.7.1 "relaying denied"\n}',
        "E0203@27:25",
        "its `}` is missing",
    ),
    ("missing open brace", "target.lmtp store {", "target.lmtp store", "E0207@9:18", "its `{` is missing"),
    ("extra close brace", "    deliver_to &outbound\n}\n\ntest", "    deliver_to &outbound\n}\n}\n\ntest", "E0204@61:1", ""),
    ("brace glued", "target.lmtp store {", "target.lmtp store{", "E0107@9:18", "put a space before it"),
    ("close brace glued", "50\n}", "50}", "E0107@12:23", "put a space before it"),
    ("square brace", "target.lmtp store {", "target.lmtp store [", "E0105@9:19", ""),
    ("semicolon", "tls off", "tls off;", "E0106@2:8", "remove it: a directive ends with its line"),
    ("semicolons", "connect_timeout 20s", "connect_timeout 20s;", "E0106@11:24", "remove it: a directive ends with its line"),
    ("equals", "connect_timeout 20s", "connect_timeout = 20s", "E0405@11:21", "remove it"),
    (
        "colon",
        "connect_timeout 20s",
        "connect_timeout: 20s",
        "E0201@11:5",
        "write `connect_timeout` alone, and its value behind it",
    ),
    ("equals top", "hostname mx.example.org", "hostname = mx.example.org", "E0405@1:10", "remove it"),
    (
        "comma list",
        "tcp://store1.internal:24 tcp://store2.internal:24",
        "tcp://store1.internal:24, tcp://store2.internal:24",
        "E0506@10:35",
        "addresses stand apart with spaces, without commas",
    ),
    ("unterminated quote", '"relaying denied"', '"relaying denied', "E0103@28:26", 'close it with `"`'),
    ("single quotes", '"relaying denied"', "'relaying denied'", "E0509@28:26", ""),
    ("missing quotes", '"relaying denied"', "relaying denied", "E0509@28:26", ""),
    ("comment //", "tls off", "tls off // no tls", "E0405@2:9", "a comment begins with `#`"),
    ("comment /* */", "tls off", "/* tls */\ntls off", "E0201@2:1", "a comment begins with `#`"),
    ("unit missing", "connect_timeout 20s", "connect_timeout 20", "E0502@11:21", "`20s` for seconds"),
    ("unit wrong sec", "connect_timeout 20s", "connect_timeout 20sec", "E0502@11:23", "did you mean `20s`?"),
    ("unit min", "retry 2m 5m 10m", "retry 2min 5m 10m", "E0502@20:12", "did you mean `2m`?"),
    ("unit spaced", "connect_timeout 20s", "connect_timeout 20 s", "E0502@11:21", "`20s` for seconds"),
    ("unit negative", "connect_timeout 20s", "connect_timeout -20s", "E0502@11:21", ""),
    ("size MB", "max_message_size 50M", "max_message_size 50MB", "E0503@36:24", "did you mean `50M`?"),
    ("size no unit", "max_message_size 50M", "max_message_size 50", "E0503@36:22", "`50B` for bytes"),
    ("size duration", "max_message_size 50M", "max_message_size 50s", "E0503@36:24", ""),
    ("number word", "max_connections 50", "max_connections many", "E0504@12:21", ""),
    ("number zero", "max_connections 50", "max_connections 0", "E0511@12:21", "it must be 1 or more"),
    ("number float", "max_connections 50", "max_connections 1.5", "E0504@12:21", ""),
    ("number huge", "max_connections 50", "max_connections 99999999999999999999", "E0504@12:21", ""),
    ("number empty", "max_connections 50", 'max_connections ""', "E0504@12:21", ""),
    ("number missing", "max_connections 50", "max_connections", "E0404@12:20", ""),
    ("number two", "max_connections 50", "max_connections 50 60", "E0405@12:24", ""),
    ("bool", "insecure_auth yes", "insecure_auth maybe", "E0501@58:19", "`yes` or `no`"),
    ("misspelt directive", "connect_timeout", "conect_timeout", "E0401@11:5", "did you mean `connect_timeout`?"),
    ("dash directive", "connect_timeout", "connect-timeout", "E0401@11:5", "did you mean `connect_timeout`?"),
    ("upper directive", "connect_timeout", "Connect_Timeout", "E0401@11:5", "did you mean `connect_timeout`?"),
    ("directive of other block", "connect_timeout 20s", "retry 5m", "E0401@11:5", "not known here"),
    ("target directive in listener", "max_message_size 50M", "connect_timeout 5s", "E0401@36:5", "not known here"),
    ("listener directive at top", "tls off", "tls off\nmax_message_size 50M", "E0401@3:1", "not known here"),
    ("postfix directive", "hostname", "myhostname", "E0401@1:1", "did you mean `hostname`?"),
    ("misspelt module", "target.lmtp", "target.lmpt", "E0601@9:1", "did you mean `target.lmtp`?"),
    ("misspelt namespace", "target.lmtp", "targt.lmtp", "E0601@9:1", "did you mean `target.lmtp`?"),
    (
        "missing namespace",
        "target.lmtp store",
        "lmtp store",
        "E0506@9:6 E0401@10:5 E0401@11:5 E0602@49:20",
        "such as `tcp://127.0.0.1:25`; what is delivered to is a target: `target.lmtp store`",
    ),
    ("misspelt top word", "submission tcp", "submision tcp", "E0401@54:1", "did you mean `submission`?"),
    ("misspelt ref", "&store", "&stor", "E0602@49:20", "did you mean `&store`?"),
    ("missing amp", "deliver_to &store", "deliver_to store", "E0601@49:20", "did you mean `&store`?"),
    ("dollar ref", "deliver_to &store", "deliver_to $store", "E0601@49:20", "did you mean `&store`?"),
    ("ref spaced", "deliver_to &store", "deliver_to & store", "E0602@49:20", ""),
    ("macro form ${}", "destination $(domains)", "destination ${domains}", "E0805@48:17", "a macro is written `$(name)`"),
    ("macro form $x", "destination $(domains)", "destination $domains", "E0805@48:17", "a macro is written `$(name)`"),
    ("macro in block", "    max_message_size 50M", "    $(x) = 5\n    max_message_size 50M", "E0305@36:5", ""),
    ("macro unclosed", "destination $(domains)", "destination $(domains", "E0105@48:18", ""),
    ("macro double", "$(domains) =", "$(domains) = a.test\n$(domains) =", "E0304@5:1", ""),
    ("macro without eq", "$(domains) = ", "$(domains) ", "E0303@4:1", "write `$(name) = value`"),
    ("macro in word many", "destination $(domains)", "destination mail.$(domains)", "E0302@48:22", ""),
    ("macro empty", "$(domains) = example.org example.net", "$(domains) =", "E0303@4:13", 'an empty one is written `""`'),
    ("unknown snippet", "import no_relay", "import no_rely", "E0312@51:12", "did you mean `no_relay`?"),
    ("cyclic snippet", "(no_relay) {", "(no_relay) {\n    import no_relay", "E0313@27:12", ""),
    ("import missing file", "import no_relay", "import ./norelay.conf", "E0312@51:12", ""),
    ("import self", "tls off", "tls off\nimport mailgate.conf", "E0313@3:8", ""),
    ("import dir", "tls off", "tls off\nimport .", "E0312@3:8", ""),
    ("import unreadable", "tls off", "tls off\nimport bin.conf", "E0102@3:8", ""),
    ("import nothing", "import no_relay", "import", "E0311@51:11", ""),
    ("include", "import no_relay", "include no_relay", "E0401@51:5", "not known here"),
    ("dup listener", "127.0.0.1:2587", "127.0.0.1:2525", "E0725@54:12", "each is opened once: one listener has it"),
    ("dup listener star", "127.0.0.1:2587", "*:2525", "E0725@54:12", "each is opened once: one listener has it"),
    (
        "dup listener same line",
        "smtp tcp://127.0.0.1:2525",
        "smtp tcp://127.0.0.1:2525 tcp://127.0.0.1:2525",
        "E0725@35:27",
        "each is opened once: one listener has it",
    ),
    ("port too big", "127.0.0.1:2587", "127.0.0.1:99999", "E0506@54:28", "1 to 65535"),
    ("port zero", "127.0.0.1:2587", "127.0.0.1:0", "E0506@54:28", "1 to 65535"),
    ("port missing", "127.0.0.1:2587", "127.0.0.1", "E0506@54:27", "such as `:25`"),
    ("port word", "127.0.0.1:2587", "127.0.0.1:smtp", "E0506@54:28", "1 to 65535"),
    ("listen name", "127.0.0.1:2587", "localhost:2587", "E0506@54:18", "such as `127.0.0.1`, or `*` for all"),
    ("listen no scheme", "tcp://127.0.0.1:2587", "127.0.0.1:2587", "E0506@54:12", "did you mean `tcp://127.0.0.1:2587`?"),
    ("listen scheme smtp", "tcp://127.0.0.1:2587", "smtp://127.0.0.1:2587", "E0506@54:12", "did you mean `tcp`?"),
    ("listen ipv6 no brackets", "tcp://127.0.0.1:2587", "tcp://::1:2587", "E0506@54:18", "did you mean `tcp://[::1]:2587`?"),
    ("listen unix rel", "tcp://127.0.0.1:2587", "unix:/run/x", "E0506@54:12", "did you mean `unix:///run/x`?"),
    ("ep bad ip", "10.0.0.20:25", "10.0.0.256:25", "E0506@15:19", ""),
    ("ep spaces", "tcp://10.0.0.20:25", "10.0.0.20 25", "E0506@15:13 E0506@15:23", "did you mean `tcp://10.0.0.20`?"),
    ("ep smtp scheme", "tcp://10.0.0.20:25", "smtp://10.0.0.20", "E0506@15:13", "did you mean `tcp`?"),
    ("ep bad host", "store1.internal", "store_1..internal", "E0506@10:19", ""),
    ("unknown check", "        spf", "        sfp", "E0601@39:9", "did you mean `spf`?"),
    ("check with namespace misspelt", "        spf", "        check.sfp", "E0601@39:9", "did you mean `spf`?"),
    ("check unavailable", "        spf", "        clamav", "E0601@39:9", ""),
    ("on_fail bad", "        spf", "        spf {\n            on_fail bounce\n        }", "E0505@40:21", ""),
    ("spf old maddy", "        spf", "        spf {\n            fail_action reject\n        }", "E0401@40:13", "not known here"),
    ("modify unknown", "replace_rcpt", "rewrite_rcpt", "E0601@43:9", "did you mean `replace_rcpt`?"),
    ("modify ref to target", "replace_rcpt &aliases", "replace_rcpt &store", "E0604@43:22", ""),
    ("deliver to table", "deliver_to &store", "deliver_to &aliases", "E0604@49:20", ""),
    ("deliver to limits", "deliver_to &store", "deliver_to &public", "E0604@49:20", ""),
    ("limits to table", "limits &public", "limits &aliases", "E0604@37:12", ""),
    (
        "when type",
        "client_ip in [10.0.0.0/8] and tls",
        'client_ip == "10.0.0.0/8" and tls',
        "E0523@45:10",
        "write the address without quotes",
    ),
    (
        "when number string",
        "client_ip in [10.0.0.0/8] and tls",
        "sender == 5",
        "E0523@45:10",
        "a number stands without quotes; nothing is converted",
    ),
    ("when single eq", "client_ip in [10.0.0.0/8] and tls", 'sender = "a@b.test"', "E0521@45:17", "to compare, write =="),
    (
        "when unknown var",
        "client_ip in [10.0.0.0/8] and tls",
        "remote_ip in [10.0.0.0/8]",
        "E0522@45:10",
        "it belongs to the settings of targets and queues",
    ),
    ("when misspelt var", "client_ip in", "cleint_ip in", "E0522@45:10", "did you mean `client_ip`?"),
    (
        "when rcpt",
        "client_ip in [10.0.0.0/8] and tls",
        'rcpt_domain == "example.org"',
        "E0522@45:10",
        "this is decided at MAIL; recipients exist in destination blocks",
    ),
    (
        "when size",
        "client_ip in [10.0.0.0/8] and tls",
        "size > 10",
        "E0522@45:10",
        "the content has not come when this is decided: write it in `after_body { … }`",
    ),
    ("when unclosed", "client_ip in [10.0.0.0/8] and tls", "client_ip in [10.0.0.0/8 and tls", "E0105@45:23", ""),
    ("when paren", "client_ip in [10.0.0.0/8] and tls", "(client_ip in [10.0.0.0/8] and tls", "E0105@45:10", ""),
    (
        "when bare word",
        "client_ip in [10.0.0.0/8] and tls",
        "sender_domain == example.org",
        "E0521@45:27",
        'a text stands in quotes: "example.org"',
    ),
    ("when bad regex", "client_ip in [10.0.0.0/8] and tls", 'sender matches "(["', "E0521@45:27", ""),
    ("when bad cidr", "10.0.0.0/8", "10.0.0.0/33", "E0521@45:24", ""),
    ("when hostbits", "10.0.0.0/8", "10.0.0.1/8", "E0521@45:24", "did you mean `10.0.0.0/8`?"),
    ("when empty", "when client_ip in [10.0.0.0/8] and tls {", "when {", "E0404@45:9", ""),
    ("when always", "client_ip in [10.0.0.0/8] and tls", "true", "E0804@48:5", ""),
    (
        "when unknown fn",
        "client_ip in [10.0.0.0/8] and tls",
        'startswith(sender, "a")',
        "E0522@45:10",
        "functions: contains, domain, has_prefix, has_suffix, hash, is_local, len, localpart, lookup, lower, split, upper",
    ),
    ("when fn args", "client_ip in [10.0.0.0/8] and tls", "has_prefix(sender)", "E0523@45:10", ""),
    ("when string bool", "client_ip in [10.0.0.0/8] and tls", 'tls == "yes"', "E0523@45:10", ""),
    ("when protocol", "client_ip in [10.0.0.0/8] and tls", 'protocol == "http"', "E0523@45:22", "possible: SMTP, ESMTP, LMTP"),
    (
        "when no brace",
        "when client_ip in [10.0.0.0/8] and tls {",
        "when client_ip in [10.0.0.0/8] and tls",
        "E0207@45:43",
        "its `{` is missing",
    ),
    ("else", "    destination $(domains) {", "    else {", "E0401@48:5", "not known here"),
    (
        "missing default",
        "    import no_relay\n",
        "",
        "E0803@48:5",
        "what no rule matches needs a decision: `default_destination { … }`",
    ),
    (
        "unreachable dup",
        "    destination $(domains) {",
        "    destination example.org {\n        deliver_to &hub\n    }\n    destination $(domains) {",
        "E0804@51:5",
        "",
    ),
    ("two defaults", "    import no_relay\n", "    import no_relay\n    import no_relay\n", "E0804@27:5", ""),
    (
        "rule beside deliver",
        "    import no_relay\n",
        "    import no_relay\n    deliver_to &hub\n",
        "E0802@52:5",
        "one of them in each block",
    ),
    ("empty block", "        deliver_to &store\n", "", "E0801@48:5", "mail is thrown away only by the word `discard`"),
    (
        "two handlings",
        "        deliver_to &store\n",
        "        deliver_to &store\n        reject\n",
        "E0802@50:9",
        "a block decides once",
    ),
    ("reject 250", "reject 550 5.7.1", "reject 250 5.7.1", "E0509@28:16", "400 to 599"),
    ("reject classes", "reject 550 5.7.1", "reject 550 4.7.1", "E0509@28:20", "did you mean `5.7.1`?"),
    ("reject order", 'reject 550 5.7.1 "relaying denied"', 'reject "relaying denied" 550', "E0405@28:34", ""),
    ("dest bad domain", "destination $(domains)", "destination exa mple..org", "E0805@48:21", ""),
    ("dest star", "destination $(domains)", "destination *", "E0805@48:17", ""),
    (
        "dest wildcard",
        "destination $(domains)",
        "destination *.example.org",
        "E0805@48:17",
        "for all sub-domains write `.example.org`",
    ),
    ("dest at", "destination $(domains)", "destination @example.org", "E0805@48:17", "for the whole domain write `example.org`"),
    ("dest none", "destination $(domains)", "destination", "E0404@48:16", ""),
    ("block unexpected", "tls require_verify", "tls require_verify {\n        x y\n    }", "E0406@16:24", "nothing belongs here"),
    ("tls choice", "tls require_verify", "tls required", "E0505@16:9", "did you mean `require`?"),
    ("tls on", "tls off", "tls on", "E0505@2:5", ""),
    ("tls missing file", "tls off", "tls file /nonexistent.pem /nonexistent.key", "E0720@2:1", ""),
    ("tls one file", "tls off", "tls file cert.pem", "E0404@2:18", ""),
    ("tls swapped", "tls off", "tls file ./mx.key ./mx.pem", "E0720@2:1", ""),
    ("dup directive", "connect_timeout 20s", "connect_timeout 20s\n    connect_timeout 30s", "E0402@12:5", ""),
    ("dup instance", "target.smtp hub", "target.lmtp store", "E0603@14:13 E0602@19:12 E0602@46:20", ""),
    ("instance no name", "target.smtp hub", "target.smtp", "E0404@14:12 E0602@19:12 E0602@46:20", ""),
    ("unused", "limits &public\n", "", "W0601@31:8", ""),
    ("no targets", "    targets tcp://10.0.0.20:25\n", "", "E0732@14:1", "`targets tcp://host`, or an `endpoint`"),
    ("queue cycle", "target &hub", "target &outbound", "E0807@19:5", ""),
    ("queue retry order", "retry 2m 5m 10m", "retry", "E0404@20:10", ""),
    ("limits scope", "ip rate 20 1m", "ip rate 20", "E0404@32:15", ""),
    ("limits scope2", "ip rate 20 1m", "adress rate 20 1m", "E0401@32:5", "not known here"),
    ("limits 20/1m", "ip rate 20 1m", "ip rate 20/1m", "E0504@32:13", ""),
    ("auth entry", "entry ann secret", "entry ann", "E0404@56:18", ""),
    ("auth unknown", "auth static {", "auth statc {", "E0601@55:10", "did you mean `static`?"),
    ("test expect", "expect reject 550 5.7.1", "expect rejected", "E0505@66:12", "did you mean `reject`?"),
    ("test wrong", "expect reject 550 5.7.1", "expect accept", "E0901@66:5", "decided at mailgate.conf:28"),
    ("test no expect", "    expect reject 550 5.7.1\n", "", "E0403@62:1", ""),
    ("test bad addr", "rcpt b@y.test", "rcpt b y.test", "E0405@65:12", ""),
    ("test name missing", 'test "strangers cannot relay"', "test", "E0404@62:5", ""),
    (
        "hostname ip",
        "hostname mx.example.org",
        "hostname 192.0.2.1",
        "E0736@1:10",
        "a domain, such as `mx.example.org`, or an address in brackets",
    ),
    ("hostname twice", "hostname mx.example.org", "hostname mx.example.org\nhostname mx2.example.org", "E0402@2:1", ""),
    ("local domains bad", "local_domains example.org", "local_domains user@example.org", "E0513@3:15", ""),
    (
        "dynamic no else",
        "    retry 2m 5m 10m",
        "    retry {\n        if priority > 3 then 1m\n    }",
        "E0531@22:5",
        "`else DURATION…` as its last line",
    ),
    (
        "dynamic typo",
        "    retry 2m 5m 10m",
        "    retry {\n        if priorty > 3 then 1m\n        else 2m\n    }",
        "E0522@21:12",
        "did you mean `priority`?",
    ),
    (
        "dynamic type",
        "    retry 2m 5m 10m",
        "    retry {\n        if priority > 3 then soon\n        else 2m\n    }",
        "E0502@21:30",
        "such as `90s` or `1h30m`",
    ),
    ("env unset", "hostname mx.example.org", "hostname {env:MYHOST}", "E0321@1:10", ""),
    (
        "env bad",
        "hostname mx.example.org",
        "hostname ${MYHOST}",
        "E0736@1:10",
        "a domain, such as `mx.example.org`, or an address in brackets",
    ),
    ("secret file missing", "entry ann secret", "entry ann file:/nonexistent", "E0508@56:19", ""),
    ("relative table", "replace_rcpt &aliases", "replace_rcpt file ./nosuch", "E0810@43:9", ""),
    (
        "diff markers",
        "tls off",
        "<<<<<<< HEAD\ntls off\n=======\ntls self_signed\n>>>>>>> other",
        "E0201@2:1 E0201@4:1 E0402@5:1 E0201@6:1",
        "a merge has left this here",
    ),
    ("two on a line", "tls off", "tls off local_domains x.test", "E0405@2:9", ""),
    ("shell heredoc leftover", "tls off", "tls off\nEOF", "E0401@3:1", "not known here"),
]

FILES: list[tuple[str, bytes, str, str]] = [
    ("UTF-16", SOUND.encode("utf-16"), "E0102@1:1", "save it as plain UTF-8 text"),
    ("Latin-1", SOUND.replace("relaying", "relayé").encode("latin-1"), "E0102@28:32", "save it as UTF-8"),
    ("compressed", gzip.compress(SOUND.encode()), "E0102@1:1", "save it as plain UTF-8 text"),
    ("CR alone", SOUND.replace("\n", "\r").encode(), "E0108@1:1", "save it with LF, or CRLF"),
    ("NUL", SOUND.replace("tls off", "tls\0 off").encode(), "E0108@2:4", "remove it: only tabs and line ends are allowed"),
    ("empty", b"", "E0208@1:1", "at least a listener is needed"),
    ("comments only", b"\n# soon\n", "E0208@1:1", "at least a listener is needed"),
    ("huge", SOUND.encode() + b"# x\n" * (2 << 20), "E0315@1:1", "what there is much of belongs into tables"),
    ("cut off", SOUND[: SOUND.index("check {") + 3].encode(), "E0203@35:27 E0401@38:5", "its `}` is missing"),
]

FINE = {
    "Windows line ends": SOUND.replace("\n", "\r\n"),
    "a byte order mark": "\ufeff" + SOUND,
    "tabs": SOUND.replace("    ", "\t"),
    "no-break spaces": SOUND.replace("connect_timeout 20s", "connect_timeout\u00a020s"),
    "everything on few lines": SOUND.replace("{\n", "{ ").replace("\n}", " }"),
    "no line end at its end": SOUND.rstrip("\n"),
}


class MistakeTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(directory)
        Path("bin.conf").write_bytes(b"\xff\xfe\x00")

    def found(self, data: bytes) -> list[Diagnostic]:
        Path("mailgate.conf").write_bytes(data)
        built = build("mailgate.conf", environment={})
        return [*built.diagnostics, *(run_tests(built.configuration) if built.configuration else ())]

    def judge(self, what: str, data: bytes, expected: str, hint: str) -> list[Diagnostic]:
        found = self.found(data)
        places = " ".join(f"{one.code}@{one.span.line}:{one.span.column}" for one in found if one.span)
        self.assertEqual((places, found[0].hint if found else ""), (expected, hint), f"{what}:\n{render(found)}")
        return found

    def test_each_mistake_is_said_once_at_its_place(self) -> None:
        for what, old, new, expected, hint in MISTAKES:
            self.assertEqual(SOUND.count(old) > 0, True, what)
            self.judge(what, SOUND.replace(old, new, 1).encode(), expected, hint)
        self.assertGreater(len(MISTAKES), 150)

    def test_nearly_all_are_one_error(self) -> None:
        several = [what for what, _, _, expected, _ in MISTAKES if " " in expected]
        self.assertLessEqual(len(several), 8, several)

    def test_files_that_are_no_text(self) -> None:
        for what, data, expected, hint in FILES:
            self.judge(what, data, expected, hint)

    def test_what_is_no_mistake(self) -> None:
        for what, text in {"as it is": SOUND, **FINE}.items():
            self.judge(what, text.encode(), "", "")

    def test_a_file_that_was_cut_off(self) -> None:
        """Behind whichever line before the end of the first listener; at its end if nothing else is wrong with it."""
        lines = SOUND.splitlines(keepends=True)
        whole = next(number for number, line in enumerate(lines) if line == "    import no_relay\n") + 2
        for count in range(1, whole):
            self.assertNotEqual([], self.found("".join(lines[:count]).encode()), count)
        found = self.found("".join(lines[: lines.index("smtp tcp://127.0.0.1:2525 {\n")]).encode())
        self.assertEqual(["W0601"] * 2 + ["W0606"], sorted(one.code for one in found if "store" not in one.message))
        self.judge("the first line", b"hostname mx.example.org\n\n", "W0606@1:23", "is the whole file there?")

    def test_letters_that_look_alike_and_letters_that_are_not_seen(self) -> None:
        self.judge("Cyrillic", SOUND.replace("tls off", "tls \u043eff", 1).encode(), "E0505@2:5", "did you mean `off`?")
        hint = "letters, digits, `.`, `_` and `-` only"
        self.judge("zero width", SOUND.replace("connect_", "connect\u200b_", 1).encode(), "E0201@11:5", hint)

    def test_a_macro_that_is_misspelt_or_defined_below(self) -> None:
        text = SOUND.replace("destination $(domains)", "destination $(domian)")
        self.judge("misspelt", text.encode(), "E0301@48:17", "did you mean `$(domains)`?")
        line = "$(domains) = example.org example.net\n"
        self.judge("below", (SOUND.replace(line, "") + line).encode(), "E0301@47:17", "")

    def test_snippets_that_import_each_other(self) -> None:
        text = SOUND.replace("import no_relay", "import a") + "(a) {\n    import b\n}\n(b) {\n    import a\n}\n"
        self.judge("circle", text.encode(), "E0313@72:12", "")
