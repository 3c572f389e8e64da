"""`mailgate explain` and `mailgate try` as a shell sees them; the pages of the documentation are the examples."""

from __future__ import annotations

import builtins
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from mailgate.cli import main
from mailgate.cli.attempt import prompted
from mailgate.cli.explain import with_crlf

PAGE = Path(__file__).parents[2] / "docs" / "explain.md"
_FILE = re.compile(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^```console\n\$ mailgate ([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

REMOTE = '''
from twisted.internet import reactor
from twisted.internet.task import deferLater
from zope.interface import implementer

from mailgate.interfaces import ITable
from mailgate.registry import Module, catalogue


@implementer(ITable)
class Remote(Module):
    """Answers after a while; stands for a table over the network."""

    name = "table.remote"
    alive = False

    async def start(self):
        self.alive = True

    async def stop(self):
        self.alive = False

    def lookup(self, key):
        if not self.alive or key.startswith("down"):
            raise OSError("no connection")
        return deferLater(reactor, 0.01, lambda: ("yes",) if key == "ann@example.org" else ())


class Point:
    value = "remote"

    def load(self):
        return Remote


catalogue._plugins = lambda: {"table.remote": Point()}
from mailgate.cli import main

main()
'''


class Files(SynchronousTestCase):
    def setUp(self) -> None:
        self.addCleanup(os.chdir, os.getcwd())
        directory = Path(self.mktemp())
        directory.mkdir()
        os.chdir(directory)
        for name, text in _FILE.findall(PAGE.read_text()):
            Path(name).write_text(text)

    def run_with(self, *arguments: str, input: str | None = None) -> Result:
        return CliRunner().invoke(main, arguments, input=input)


class PageTests(Files):
    def test_every_command_of_the_page_prints_what_it_shows(self) -> None:
        commands = _COMMAND.findall(PAGE.read_text())
        self.assertEqual(len(commands), 3)
        for command, shown in commands:
            result = self.run_with(*shlex.split(command))
            self.assertEqual(result.stdout, shown, command)

    def test_its_tests_pass(self) -> None:
        self.assertEqual(self.run_with("check", "-c", "mailgate.conf").exit_code, 0)


class ExplainTests(Files):
    def explain(self, *arguments: str) -> Result:
        return self.run_with("explain", "-c", "mailgate.conf", "--from", "a@x.test", *arguments)

    def test_json(self) -> None:
        result = self.explain("--rcpt", "sales@example.org", "--rcpt", "b@y.test", "--json")
        answer = json.loads(result.output)
        self.assertEqual((result.exit_code, answer["version"], answer["file"]), (0, 1, "mailgate.conf"))
        sales, outsider = answer["recipients"]
        self.assertEqual(
            sales["deliveries"],
            [
                {
                    "target": "store",
                    "endpoint": "unix:///run/store.sock",
                    "sender": "a@x.test",
                    "address": "ann@example.org",
                    "where": "mailgate.conf:26",
                }
            ],
        )
        self.assertEqual(outsider["reply"], {"code": 550, "enhanced": "5.7.1", "text": "relaying denied"})
        self.assertEqual((outsider["where"], outsider["after_dot"], outsider["deliveries"]), ("mailgate.conf:29", None, []))
        rewrite = sales["tree"]["children"][0]
        self.assertEqual(
            (rewrite["kind"], rewrite["where"], rewrite["entry"]), ("rewrite", "mailgate.conf:20", "mailgate.conf:6")
        )

    def test_the_client_decides(self) -> None:
        result = self.explain("--rcpt", "b@y.test", "--ip", "10.1.2.3", "--tls")
        self.assertIn("<b@y.test> to hub (tcp://10.0.0.20:25)", result.output)
        self.assertIn("client_ip in [10.0.0.0/8]: yes, tls: yes", result.output)

    def test_no_change_is_0_and_a_change_is_1(self) -> None:
        same = self.explain("--rcpt", "ann@example.org", "--against", "mailgate.conf")
        self.assertEqual((same.exit_code, same.output), (0, "mailgate.conf and mailgate.conf do the same with this envelope\n"))
        changed = self.explain("--rcpt", "b@y.test", "--against", "new.conf", "--json")
        self.assertEqual(changed.exit_code, 1)
        what = [(change["what"], change["before"]) for change in json.loads(changed.output)["changes"]]
        self.assertEqual(what, [("RCPT", "550 5.7.1 relaying denied"), ("delivery", ""), ("the dot", "")])

    def test_wrong_usage_and_files_that_are_not_there_are_2(self) -> None:
        for arguments in (
            ("--rcpt", "no address"),
            ("--rcpt", "<>"),
            ("--rcpt", "b@y.test", "--ip", "300.1.1.1"),
            ("--rcpt", "b@y.test", "--listener", "tcp://127.0.0.1:26"),
            ("--rcpt", "b@y.test", "--against", "missing.conf"),
            ("--rcpt", "b@y.test", "--helo", "x\ny"),
            (),
        ):
            self.assertEqual(self.explain(*arguments).exit_code, 2, arguments)

    def test_a_message_is_judged_like_live_content(self) -> None:
        Path("loop.eml").write_text("Received: by mx.example.org\n" * 60 + "\nround and round\n")
        answer = json.loads(self.explain("--rcpt", "ann@example.org", "--message", "loop.eml", "--json").output)
        (one,) = answer["recipients"]
        self.assertEqual((one["reply"]["code"], one["after_dot"]["code"], one["after_dot"]["enhanced"]), (250, 554, "5.4.6"))

    def test_what_changes_the_content(self) -> None:
        Path("mailgate.conf").write_text(
            "hostname mx.example.org\ntls off\nsmtp tcp://127.0.0.1:2525 {\nmodify {\nto_7bit\nremove_header X-Odd\n}\n"
            "deliver_to smtp tcp://127.0.0.1:26\n}\n"
        )
        recoded, removed = "to_7bit: {}  mailgate.conf:5", "remove_header X-Odd: {}  mailgate.conf:6"
        changed, stays = "✓ {}".format, "✗ {}".format
        for content, lines in {
            "Subject: x\n\nGrüße\n": (changed(recoded), stays(removed)),
            "Subject: x\nX-Odd: y\n\nplain\n": (stays(recoded), changed(removed)),
        }.items():
            Path("message.eml").write_text(content)
            output = self.explain("--rcpt", "b@y.test", "--rcpt", "c@y.test", "--message", "message.eml").output
            for line in lines:
                said = line.format("the message is changed" if line[0] == "✓" else "this message stays")
                self.assertEqual(output.count(said), 1, output)

    def test_line_ends_are_those_of_the_wire(self) -> None:
        for content in (b"a\n\nb", b"a\n\nb\n", b"a\r\n\r\nb\r\n"):
            self.assertEqual(with_crlf(content), b"a\r\n\r\nb\r\n")

    def test_a_file_with_errors_is_1(self) -> None:
        Path("mailgate.conf").write_text("hostname a b\n")
        result = self.explain("--rcpt", "b@y.test")
        self.assertEqual(result.exit_code, 1)
        self.assertIn("mailgate.conf:1", result.stderr)


class OnlineTests(Files):
    """In processes of their own: a reactor runs once."""

    def explain(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run_remote("explain", "--from", "a@x.test", *arguments)

    def run_remote(self, command: str, *arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
        Path("remote.conf").write_text(
            "hostname mx.example.org\ntls off\ntable.remote people {\n}\nsmtp tcp://127.0.0.1:2525 {\n"
            "    destination_in &people {\n        discard\n    }\n    default_destination {\n        reject\n    }\n}\n"
        )
        whole = [sys.executable, "-c", REMOTE, command, "-c", "remote.conf", *arguments]
        return subprocess.run(whole, input=input, capture_output=True, text=True, timeout=60, check=False)

    def test_a_session_waits_for_its_answers(self) -> None:
        script = "EHLO x.test\nMAIL FROM:<a@x.test>\nRCPT TO:<ann@example.org>\nRCPT TO:<b@example.org>\nDATA\n\nx\n.\nQUIT\n"
        done = self.run_remote("try", "--online", input=script)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("RCPT TO:<ann@example.org>\nS: 250 2.1.5 Recipient ok  [remote.conf:7]\n", done.stdout)
        self.assertIn(
            "RCPT TO:<b@example.org>\nS: 550 5.7.1 rejected by policy  [remote.conf:10 rejected by rule]\n", done.stdout
        )
        self.assertTrue(done.stdout.endswith("C: QUIT\nS: 221 2.0.0 Bye\n"), done.stdout)
        dry = self.run_remote("try", input=script)
        self.assertEqual(dry.returncode, 1, dry.stderr)
        self.assertIn("S: 451 4.3.0 Not asked", dry.stdout)

    def test_what_is_not_asked_is_unknown(self) -> None:
        done = self.explain("--rcpt", "ann@example.org")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("unknown: people was not asked for 'ann@example.org'; --online asks it", done.stdout)

    def test_online_asks_tables_that_were_started(self) -> None:
        done = self.explain("--rcpt", "ann@example.org", "--rcpt", "bob@example.org", "--online")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("<ann@example.org> is discarded", done.stdout)
        self.assertIn("550 5.7.1 rejected by policy", done.stdout)

    def test_a_table_that_fails_is_75(self) -> None:
        done = self.explain("--rcpt", "down@example.org", "--online")
        self.assertEqual(done.returncode, 75, done.stderr)
        self.assertIn("451 4.3.0", done.stdout)


class TryTests(Files):
    def attempt(self, *arguments: str, input: str | None = None) -> Result:
        return self.run_with("try", "-c", "mailgate.conf", *arguments, input=input)

    def test_lines_from_standard_input(self) -> None:
        result = self.attempt(input="EHLO x.test\n# a comment\nMAIL FROM:<a@x.test>\nRCPT TO:<b@y.test>\nFOO\nQUIT\nNOOP\n")
        self.assertEqual(result.exit_code, 0)
        self.assertIn("S: 550 5.7.1 relaying denied  [mailgate.conf:29 rejected by rule]\n", result.output)
        self.assertTrue(result.output.endswith("C: FOO\nS: 500 5.5.1 Command not recognized\nC: QUIT\nS: 221 2.0.0 Bye\n"))

    def test_a_message_is_sent_as_it_is(self) -> None:
        Path("m.eml").write_text("Subject: dots\n\n.\n..\nend")
        arguments = ("m.eml", "--from", "<>", "--rcpt", "sales@example.org", "--rcpt", "x@partner.example.net", "--json")
        answer = json.loads(self.attempt(*arguments).output)
        last = [exchange for exchange in answer["exchanges"] if exchange["client"] == "."]
        self.assertEqual(len(last), 1)
        self.assertEqual([one["address"] for one in last[0]["deliveries"]], ["ann@example.org"])
        deferred = next(one for one in answer["exchanges"] if "partner" in str(one["client"]))
        self.assertEqual((deferred["server"][0][:9], deferred["where"]), ("452 4.5.3", ["mailgate.conf:23"]))

    def test_a_second_message_has_its_own_answers(self) -> None:
        once = "MAIL FROM:<a@x.test>\nRCPT TO:<ann@example.org>\nDATA\nSubject: x\n\nx\n.\n"
        result = self.attempt(input="EHLO x.test\n" + once + once + "QUIT\n")
        self.assertEqual(result.output.count("<ann@example.org> to store"), 2)
        self.assertIn("dry.2", result.output)

    def test_tls_is_played(self) -> None:
        text = Path("mailgate.conf").read_text().replace("tls off", "tls self_signed")
        Path("mailgate.conf").write_text(text)
        script = "EHLO x.test\nSTARTTLS\nEHLO x.test\nMAIL FROM:<a@x.test>\nRCPT TO:<b@y.test>\nQUIT\n"
        result = self.attempt("--ip", "10.1.2.3", input=script)
        self.assertIn("S: 250 2.1.5 Recipient ok  [mailgate.conf:17]", result.output)

    def test_typed_lines_end_with_the_input(self) -> None:
        typed = iter(["EHLO x.test", "NOOP"])

        def answer(prompt: str) -> str:
            self.assertEqual(prompt, "C: ")
            try:
                return next(typed)
            except StopIteration:
                raise EOFError from None

        self.patch(builtins, "input", answer)
        self.assertEqual(list(prompted()), [b"EHLO x.test", b"NOOP"])

    def test_a_message_needs_an_envelope(self) -> None:
        Path("m.eml").write_text("Subject: x\n\nx\n")
        self.assertEqual(self.attempt("m.eml").exit_code, 2)
        self.assertEqual(self.attempt("m.eml", "--from", "a@x.test").exit_code, 2)
