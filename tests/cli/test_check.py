"""`mailgate check` beyond plain diagnostics: SARIF, --online, no side effects, `mailgate help`, and the time it takes."""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from mailgate.cli import main
from mailgate.cli.online import check_online, endpoint_span
from mailgate.config.codes import CODES
from mailgate.registry import build

WARNED = """tls off
target.smtp next {
    targets tcp://127.0.0.1:25
    tls require_verify
    tls_verify_host no
}
lmtp tcp://127.0.0.1:2524 {
    deliver_to &next
}
"""
RELAY = "tls off\nsmtp tcp://192.0.2.1:25 {\n    deliver_to smtp tcp://mx.example.org\n}\n"


class CheckCase(SynchronousTestCase):
    def check(self, text: str, *arguments: str) -> Result:
        path = Path(self.mktemp())
        path.write_text(text)
        return CliRunner().invoke(main, ["check", "-c", str(path), *arguments])


class FormatTests(CheckCase):
    def test_sarif(self) -> None:
        result = self.check(WARNED.replace("deliver_to", "deliver_too"), "--format", "sarif")
        self.assertEqual(result.exit_code, 1)
        log = json.loads(result.output)
        self.assertEqual((log["version"], set(log)), ("2.1.0", {"$schema", "version", "runs"}))
        (run,) = log["runs"]
        self.assertEqual(run["invocations"], [{"executionSuccessful": True, "exitCode": 1}])
        driver = run["tool"]["driver"]
        self.assertEqual(driver["name"], "mailgate")
        rules = driver["rules"]
        self.assertEqual([rule["id"] for rule in rules], sorted({result["ruleId"] for result in run["results"]}))
        for found in run["results"]:
            self.assertEqual(rules[found["ruleIndex"]]["id"], found["ruleId"])
            self.assertIn(found["level"], ("error", "warning"))
            self.assertTrue(found["message"]["text"])
            (place,) = found["locations"]
            region = place["physicalLocation"]["region"]
            self.assertGreater(region["endColumn"], region["startColumn"])
            self.assertGreaterEqual(min(region.values()), 1)
        unknown = next(found for found in run["results"] if found["ruleId"] == "E0401")
        region = unknown["locations"][0]["physicalLocation"]["region"]
        self.assertEqual(region, {"startLine": 8, "startColumn": 5, "endLine": 8, "endColumn": 16})

    def test_sarif_of_a_clean_file(self) -> None:
        result = self.check(WARNED.replace("    tls_verify_host no\n", ""), "--format", "sarif", "--strict")
        self.assertEqual((result.exit_code, json.loads(result.output)["runs"][0]["results"]), (0, []))

    def test_the_way_to_a_place_is_a_related_location(self) -> None:
        result = self.check(
            "$(a) = maybe\nlmtp tcp://127.0.0.1:2524 {\n    announce_size $(a)\n    discard\n}\n", "--format=sarif"
        )
        (found,) = json.loads(result.output)["runs"][0]["results"]
        self.assertEqual(found["relatedLocations"][0]["message"]["text"], "macro $(a)")

    def test_json_has_its_short_option(self) -> None:
        self.assertEqual(json.loads(self.check(RELAY, "--json").output)["diagnostics"][0]["code"], "W0803")

    def test_strict_makes_warnings_count(self) -> None:
        self.assertEqual((self.check(RELAY).exit_code, self.check(RELAY, "--strict").exit_code), (0, 1))

    def test_the_files_own_tests_are_run(self) -> None:
        text = RELAY + 'test "outsiders" {\n    from a@x.test\n    rcpt b@y.test\n    expect reject\n}\n'
        result = self.check(text, "--json")
        self.assertEqual(result.exit_code, 1)
        self.assertEqual([found["code"] for found in json.loads(result.output)["diagnostics"]], ["W0803", "E0901"])


class HelpTests(SynchronousTestCase):
    def test_a_code_is_explained_with_both_examples(self) -> None:
        result = CliRunner().invoke(main, ["help", "w0803"])
        self.assertEqual(result.exit_code, 0)
        for line in CODES["W0803"].bad.splitlines():
            self.assertIn(f"    {line}\n", result.output)
        self.assertIn("relay_from", result.output)

    def test_the_list_has_every_code(self) -> None:
        output = CliRunner().invoke(main, ["help"]).output
        self.assertEqual({line[:5] for line in output.splitlines()}, set(CODES))
        self.assertEqual(set(json.loads(CliRunner().invoke(main, ["help", "--json"]).output)["codes"]), set(CODES))

    def test_every_entry_can_be_printed(self) -> None:
        for code in CODES:
            text = CliRunner().invoke(main, ["help", code])
            answer = CliRunner().invoke(main, ["help", code, "--json"])
            self.assertEqual((text.exit_code, answer.exit_code), (0, 0), code)
            self.assertEqual(json.loads(answer.output)["title"], CODES[code].title)

    def test_an_unknown_code_gets_a_suggestion(self) -> None:
        result = CliRunner().invoke(main, ["help", "E0499"])
        self.assertEqual(result.exit_code, 1)
        self.assertIn("did you mean", result.output)


class SideEffectTests(CheckCase):
    def test_nothing_but_files_is_read(self) -> None:
        text = "state_dir ./state\nruntime_dir /run/mailgate\n" + RELAY.replace(
            "    deliver_to", "    modify {\n        replace_rcpt file ./aliases\n    }\n    deliver_to"
        )
        text += "target.maildir box ./Maildir\nlmtp unix://box.sock {\n    deliver_to &box\n}\n"
        path = Path(self.mktemp())
        (path.parent / "aliases").write_text("a@example.org: b@example.org\n")
        path.write_text(text)
        before = sorted(os.listdir(path.parent))
        touched: list[str] = []

        def forbid(name: str) -> Callable[..., Any]:
            def refuse(*arguments: Any, **_: Any) -> Any:
                touched.append(f"{name}{arguments}")
                raise AssertionError(name)

            return refuse

        for name in ("socket", "create_connection", "getaddrinfo", "gethostbyname", "getfqdn"):
            self.patch(socket, name, forbid(name))
        for name in ("mkdir", "makedirs", "unlink", "remove", "rename", "replace", "chmod", "fsync", "rmdir"):
            self.patch(os, name, forbid(name))
        opened = os.open

        def guarded(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                touched.append(f"open {path}")
            return opened(path, flags, *rest, **named)

        def reading(path: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            if set(mode) & set("wax+"):
                touched.append(f"open {path} {mode}")
            return plain(path, mode, *rest, **named)

        plain = builtins.open
        self.patch(builtins, "open", reading)
        self.patch(os, "open", guarded)
        result = CliRunner().invoke(main, ["check", "-c", str(path)])
        self.assertEqual((result.exit_code, touched), (0, []), result.output)
        self.assertEqual(sorted(os.listdir(path.parent)), before)


class Server(threading.Thread):
    """Answers each connection with these replies, one to the connection and one to each line; keeps the lines."""

    def __init__(self, *replies: bytes) -> None:
        super().__init__(daemon=True)
        self.lines: list[bytes] = []
        self._replies = replies
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError), self._listening.accept()[0] as made, made.makefile("rb") as lines:
            made.settimeout(10)
            for reply in self._replies:
                made.sendall(reply)
                line = lines.readline()
                self.lines.append(line)
                if not line:
                    return

    def stop(self) -> None:
        self._listening.close()


class OnlineTests(SynchronousTestCase):
    def serve(self, *replies: bytes) -> Server:
        server = Server(*replies)
        self.addCleanup(server.stop)
        return server

    def found(self, *targets: str, tls: str = "disabled", seconds: float = 5) -> list[tuple[str, str]]:
        text = f"target.smtp next {{\n    targets {' '.join(targets)}\n    tls {tls}\n}}\n"
        built = build(text + "lmtp tcp://127.0.0.1:2524 {\n    deliver_to &next\n}\n")
        assert built.configuration is not None
        diagnostics = check_online(built.configuration, seconds=seconds, total=2 * seconds)
        for diagnostic in diagnostics:
            assert diagnostic.span is not None
            self.assertIn(diagnostic.span.text, targets)
        return [(diagnostic.code, diagnostic.message) for diagnostic in diagnostics]

    def closed_port(self) -> int:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port: int = listening.getsockname()[1]
            return port

    def test_a_next_hop_that_is_well(self) -> None:
        server = self.serve(b"220 mx\r\n", b"250 mx\r\n", b"221 bye\r\n")
        self.assertEqual(self.found(f"tcp://127.0.0.1:{server.port}"), [])
        server.join(10)
        self.assertEqual([line[:4] for line in server.lines], [b"EHLO", b"QUIT", b""])

    def test_none_that_works_is_an_error_at_each(self) -> None:
        ports = self.closed_port(), self.closed_port()
        found = self.found(*(f"tcp://127.0.0.1:{port}" for port in ports))
        self.assertEqual([code for code, _ in found], ["E0740", "E0740"])
        self.assertTrue(all("can't connect" in text for _, text in found), found)

    def test_one_of_two_is_a_warning(self) -> None:
        server = self.serve(b"220 mx\r\n", b"250 mx\r\n", b"221 bye\r\n")
        found = self.found(f"tcp://127.0.0.1:{self.closed_port()}", f"tcp://127.0.0.1:{server.port}")
        self.assertEqual([code for code, _ in found], ["W0740"])

    def test_tls_that_is_not_offered(self) -> None:
        for tls, code, text in [
            ("optional", "W0740", "STARTTLS is not offered: mail goes in plain text"),
            ("require", "E0740", "STARTTLS is not offered"),
        ]:
            server = self.serve(b"220 mx\r\n", b"250 mx\r\n", b"221 bye\r\n")
            place = f"tcp://127.0.0.1:{server.port}"
            self.assertEqual(self.found(place, tls=tls), [(code, f"{place}: {text}")])

    def test_refusals_nonsense_and_silence(self) -> None:
        for replies, text in [
            ((b"554 no\r\n",), "greeting: 554"),
            ((b"HTTP/1.1 200 OK\r\n",), "not a reply"),
            ((b"220 mx\r\n", b"550 no\r\n", b"550 no\r\n"), "hello is refused"),
            ((b"",), "no answer in time"),
        ]:
            server = self.serve(*replies)
            ((code, said),) = self.found(f"tcp://127.0.0.1:{server.port}", seconds=0.5)
            self.assertEqual(code, "E0740")
            self.assertIn(text, said)

    def test_the_place_is_that_of_the_endpoint(self) -> None:
        text = "target.smtp next {\n    targets tcp://a.test tcp://b.test:587\n    endpoint tcp://c.test {\n    }\n}\n"
        built = build(text + "lmtp tcp://127.0.0.1:2524 {\n    deliver_to &next\n}\n")
        assert built.configuration is not None
        target: Any = built.configuration.instances["next"]
        spans = [endpoint_span(target, settings) for settings in target.endpoint_settings]
        self.assertEqual([span.text for span in spans if span], ["tcp://a.test", "tcp://b.test:587", "tcp://c.test"])


class TimeTests(CheckCase):
    def test_a_thousand_lines_of_rules_that_deliver_are_checked_in_a_moment(self) -> None:
        """The search for relays included, which has something to do here; a loaded machine gets three times as long."""
        rules = "".join(f"    destination d{n}.example {{\n        deliver_to &next\n    }}\n" for n in range(330))
        domains = " ".join(f"d{n}.example" for n in range(330))
        last = "    destination postmaster {\n        deliver_to &next\n    }\n    default_destination {\n        reject\n    }\n"
        text = f"tls off\nlocal_domains {domains}\ntarget.smtp next {{\n    targets tcp://10.0.0.1\n}}\n"
        text += f"smtp tcp://192.0.2.1:25 {{\n{rules}{last}}}\n"
        code = (
            "import sys, time; from mailgate.registry import build; text = sys.stdin.read(); build(text); taken = []\n"
            "for _ in range(5):\n"
            "    start = time.process_time(); built = build(text); taken.append(time.process_time() - start)\n"
            "print(len(built.diagnostics), min(taken))"
        )
        done = subprocess.run([sys.executable, "-c", code], input=text, capture_output=True, text=True, timeout=60, check=True)
        count, seconds = done.stdout.split()
        self.assertEqual(count, "0", text)
        self.assertLess(float(seconds), 0.45)


class WarningPlaceTests(CheckCase):
    def test_each_points_at_the_directive_that_causes_it(self) -> None:
        target = "target.smtp next {{\n    targets {}\n    {}\n}}\nlmtp tcp://127.0.0.1:2524 {{\n    deliver_to &next\n}}\n"
        private = "tcp://10.0.0.1"
        for code, place, endpoint, lines in [
            ("W0710", "tls_verify_host", private, "tls require_verify\n    tls_verify_host no"),
            ("W0711", "tls", private, "require_tls\n    tls require"),
            ("W0712", "tls", "tcp://8.8.8.8", "tls optional"),
            ("W0712", "target.smtp", "tcp://8.8.8.8", "connect_timeout 5s"),
            ("W0713", "auth_insecure", private, "tls disabled\n    auth plain a b\n    auth_insecure yes"),
            ("W0713", "auth_insecure", private, "tls require\n    auth plain a b\n    auth_insecure yes"),
            ("W0714", "tls_verify_name", private, "tls require\n    tls_verify_name mx.test"),
            ("W0714", "verify_failure", private, "tls require\n    verify_failure clear"),
            ("W0714", "max_idle", private, "max_connections 5\n    max_idle 6"),
            ("W0714", "max_connections_per_endpoint", private, "max_connections 5\n    max_connections_per_endpoint 6"),
            ("W0714", "idle_timeout", private, "max_idle 0\n    idle_timeout 5s"),
        ]:
            diagnostics = build(target.format(endpoint, lines)).diagnostics
            self.assertEqual([(d.code, d.span.text if d.span else "") for d in diagnostics], [(code, place)], lines)

    def test_of_a_listener(self) -> None:
        for address, line in [
            ("127.0.0.1", "max_connections_per_ip 5"),
            ("192.0.2.1", "max_connections 5\n    max_connections_per_ip 6"),
            ("192.0.2.1", "handshake_timeout 5s"),
            ("192.0.2.1", "session_timeout 1m\n    data_timeout 2m"),
        ]:
            diagnostics = build(f"tls off\nsmtp tcp://{address}:25 {{\n    {line}\n    discard\n}}\n").diagnostics
            place = line.split()[-2]
            self.assertEqual([(d.code, d.span.text if d.span else "") for d in diagnostics], [("W0714", place)], line)

    def test_passwords_over_links_that_nobody_else_sees_are_no_matter(self) -> None:
        for endpoint in ("unix:///run/store.sock", "tcp://127.0.0.1", "tcp://localhost"):
            text = (
                f"target.smtp next {{\n    targets {endpoint}\n    tls disabled\n    auth plain a b\n    auth_insecure yes\n}}\n"
            )
            self.assertEqual(build(text + "lmtp tcp://127.0.0.1:2524 {\n    deliver_to &next\n}\n").diagnostics, [], endpoint)
