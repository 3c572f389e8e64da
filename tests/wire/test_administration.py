"""The control socket, admin addresses, and the commands that use them, against a running gateway."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import smtplib
import socket
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from mailgate.cli import main
from mailgate.cli.daemon import Daemon
from tests.support.certificates import leaf
from tests.support.ports import free_ports
from tests.support.process import GatewayProcess, twistd
from tests.test_service import connect


class AdministrationCase(SynchronousTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="mailgate-admin-")
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)
        self.smtp, self.other, self.admin, self.dead = free_ports(4)
        self.path = self.home / "gate.conf"

    def write(self, *, more: str = "", listener: str = "", addresses: str = "") -> None:
        self.path.write_text(
            f"hostname gateway.test\nstate_dir {self.home}\nruntime_dir {self.home}\ntls off\n{more}\n"
            f"smtp tcp://127.0.0.1:{self.smtp} {addresses} {{\n{listener}\n"
            f"    destination relay.test {{\n        deliver_to &next\n    }}\n"
            f"    default_destination {{\n        deliver_to maildir ./mail\n    }}\n}}\n"
            f"target.smtp next {{\n    targets tcp://127.0.0.1:{self.dead}\n}}\n"
        )

    def start(self, **options: Any) -> GatewayProcess:
        self.write(**options)
        process = GatewayProcess(self.path)
        self.addCleanup(process.kill)
        return process.wait_until_ready()

    def mailgate(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, "-c", str(self.path)])

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """On the admin address."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=20)
        self.addCleanup(connection.close)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def raw(self, request: bytes) -> bytes:
        """What the control socket answers until it closes."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(self.home / "control.sock"))
            client.sendall(request)
            answer = b""
            with contextlib.suppress(ConnectionResetError):  # it does not read to the end what it refuses
                while data := client.recv(65536):
                    answer += data
        return answer

    def send(self, recipient: str) -> int:
        with smtplib.SMTP("127.0.0.1", self.smtp, timeout=30) as client:
            client.ehlo("c.test")
            client.mail("a@x.test")
            code, _ = client.rcpt(recipient)
            return client.data(b"Subject: x\r\n\r\nhello\r\n")[0] if code == 250 else code


class ReloadCommand(AdministrationCase):
    def test_what_changes_is_printed_and_counts(self) -> None:
        self.start()
        before = smtplib.SMTP("127.0.0.1", self.smtp, timeout=20)
        self.addCleanup(before.close)
        self.write(listener="    banner two", addresses=f"tcp://127.0.0.1:{self.other}")
        result = self.mailgate("reload", "--dry-run")
        self.assertEqual(result.exit_code, 0, result.output)
        self.assertIn("+     banner two", result.output)
        with self.assertRaises(ConnectionRefusedError):
            smtplib.SMTP("127.0.0.1", self.other, timeout=20)
        result = self.mailgate("reload")
        self.assertEqual(result.exit_code, 0, result.output)
        self.assertIn("generation 2", result.output)
        with smtplib.SMTP(timeout=20) as client:
            self.assertIn(b"two", client.connect("127.0.0.1", self.other)[1])
        self.assertEqual(before.noop()[0], 250)
        self.assertEqual(self.mailgate("reload").output.splitlines()[0], "no difference")

    def test_a_broken_file_is_refused_with_its_places(self) -> None:
        process = self.start()
        self.write(listener="    baner two")
        result = self.mailgate("reload")
        self.assertEqual(result.exit_code, 1)
        self.assertIn("gate.conf:7:5", result.output)
        self.assertIn("did you mean `banner`?", result.output)
        self.assertIn("nothing changed", result.output)
        self.assertTrue(process.wait_for_line("gateway.reload_refused"))
        self.assertEqual(self.send("b@y.test"), 250)
        answer = json.loads(self.mailgate("reload", "--json").stdout)
        self.assertEqual((answer["version"], answer["verdict"]), (1, "refused"))
        self.assertEqual(answer["diagnostics"][0]["line"], 7)

    def test_a_port_that_is_taken(self) -> None:
        self.start()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", self.other))
            taken.listen()
            self.write(listener="    banner two", addresses=f"tcp://127.0.0.1:{self.other}")
            result = self.mailgate("reload")
        self.assertEqual(result.exit_code, 1)
        self.assertIn(f"gate.conf:6: cannot listen on tcp://127.0.0.1:{self.other}: Address already in use", result.output)
        with smtplib.SMTP(timeout=20) as client:
            self.assertNotIn(b"two", client.connect("127.0.0.1", self.smtp)[1])

    def test_an_address_within_one_that_goes(self) -> None:
        self.start(addresses=f"tcp://*:{self.other}")
        self.write(addresses=f"tcp://127.0.0.1:{self.other}")
        result = self.mailgate("reload")
        self.assertEqual(result.exit_code, 1)
        self.assertIn("if it is this gateway's own, under `*`", result.output)

    def test_a_low_port_after_privileges_were_dropped(self) -> None:
        if os.getuid() != 0 or Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text().strip() == "0":
            self.skipTest("only root can drop privileges, and only some systems have low ports")
        self.home.chmod(0o755)
        (self.home / "mail").mkdir()
        os.chown(self.home / "mail", 65534, 65534)
        self.write()
        command = [twistd(), "-n", "--pidfile=", "--uid=65534", "--gid=65534", "mailgate", "-c", str(self.path)]
        with subprocess.Popen(command, cwd=self.home, stdout=subprocess.DEVNULL) as process:
            self.addCleanup(process.kill)
            connect(self.smtp, process).close()
            self.write(listener="    banner two")
            self.assertEqual(self.mailgate("reload").exit_code, 0)
            self.write(addresses="tcp://127.0.0.1:1")
            result = self.mailgate("reload")
            self.assertEqual(result.exit_code, 1, result.output)
            self.assertIn("before it dropped its privileges: restart it", result.output)
            process.terminate()
            process.wait(30)

    def test_a_connection_that_waits_to_be_accepted_survives(self) -> None:
        process = self.start()
        process.signal(signal.SIGSTOP)
        with socket.create_connection(("127.0.0.1", self.smtp), timeout=20) as waiting:
            self.write(listener="    banner two")
            process.signal(signal.SIGHUP)
            process.signal(signal.SIGCONT)
            self.assertEqual(waiting.recv(4), b"220 ")
        self.assertTrue(process.wait_for_line("gateway.reload"))

    def test_nobody_is_there(self) -> None:
        self.write()
        for command in (["reload"], ["status"], ["health"], ["pool", "ls"]):
            self.assertEqual(self.mailgate(*command).exit_code, 3, command)

    def test_a_file_that_is_not_there(self) -> None:
        self.assertEqual(self.mailgate("reload").exit_code, 2)

    def test_descriptors_and_memory_come_back(self) -> None:
        process = self.start(more=f"admin tcp://127.0.0.1:{self.admin}")
        found = []
        for number in range(30):
            self.write(more=f"admin tcp://127.0.0.1:{self.admin}", listener=f"    banner {number}")
            self.assertEqual(self.mailgate("reload").exit_code, 0)
            self.assertEqual(self.send("b@y.test"), 250)
            found.append(len(os.listdir(f"/proc/{process.pid}/fd")))
        # The connection that was just closed may be one of them.
        self.assertLessEqual(min(found[-5:]), max(found[:5]), found)
        self.assertLessEqual(max(found[-5:]), max(found[:5]) + 1, found)
        log = process.stop()
        self.assertEqual(log.count("configuration.released"), 30)
        self.assertNotIn("Traceback", log)


class StatusAndHealth(AdministrationCase):
    def test_status(self) -> None:
        process = self.start()
        client = smtplib.SMTP("127.0.0.1", self.smtp, timeout=20)
        self.addCleanup(client.close)
        status = json.loads(self.mailgate("status", "--json").output)["status"]
        self.assertEqual((status["pid"], status["state"], status["sessions"]), (process.pid, "serving", 1))
        self.assertIn("serving", self.mailgate("status").output)
        self.write(listener="    banner two")
        self.mailgate("reload")
        sessions = Daemon(str(self.path)).get("/v1/sessions").body["configurations"]
        self.assertEqual([one["listeners"][0]["sessions"] for one in sessions], [1, 0])

    def test_health_while_it_serves_and_while_it_drains(self) -> None:
        process = self.start()
        client = smtplib.SMTP("127.0.0.1", self.smtp, timeout=20)
        self.addCleanup(client.close)
        client.ehlo("c.test")
        client.mail("a@x.test")
        for option in ("--live", "--ready"):
            self.assertEqual(self.mailgate("health", option).exit_code, 0)
        process.signal(signal.SIGTERM)
        self.assertTrue(process.wait_for_line("gateway.stop"))
        self.assertEqual(self.mailgate("health", "--ready").exit_code, 75)
        self.assertEqual(self.mailgate("health", "--live").exit_code, 0)
        self.assertEqual(self.mailgate("status").exit_code, 75)
        self.assertEqual(self.mailgate("reload").exit_code, 75)
        client.rset()

    def test_certificates(self) -> None:
        certificate = leaf("mx.example.org")
        self.start(listener=f"    tls file {certificate.chain_path} {certificate.key_path}")
        (listener,) = Daemon(str(self.path)).get("/v1/certificates").body["listeners"]
        self.assertEqual(listener["certificates"][0]["names"], ["mx.example.org"])


class Pools(AdministrationCase):
    def endpoint(self) -> str:
        return f"tcp://127.0.0.1:{self.dead}"

    def state(self) -> str:
        (pool,) = json.loads(self.mailgate("pool", "ls", "next", "--json").output)["pools"]
        return str(pool["endpoints"][0]["state"])

    def test_drain_eject_probe_weight(self) -> None:
        self.start()
        self.assertEqual(self.state(), "up")
        self.assertEqual(self.mailgate("pool", "drain", "next", self.endpoint()).exit_code, 0)
        self.assertEqual(self.state(), "drained")
        self.write(listener="    banner two")
        self.assertEqual(self.mailgate("reload").exit_code, 0)
        self.assertEqual(self.state(), "drained")
        self.assertEqual(self.mailgate("pool", "undrain", "next", self.endpoint()).exit_code, 0)
        self.assertEqual(self.state(), "up")
        self.assertEqual(self.mailgate("pool", "eject", "next", self.endpoint()).exit_code, 0)
        self.assertEqual(self.state(), "down")
        self.assertIn("weight 7", self.mailgate("pool", "weight", "next", self.endpoint(), "7").output)

    def test_a_probe_says_what_failed(self) -> None:
        self.start()
        result = self.mailgate("pool", "probe", "next", self.endpoint())
        self.assertEqual(result.exit_code, 1)
        self.assertIn("refused", result.output)
        self.assertEqual(self.state(), "down")

    def test_evidence_of_what_mail_met(self) -> None:
        self.start()
        self.assertEqual(self.send("b@relay.test"), 451)
        shown = self.mailgate("pool", "ls").output
        self.assertIn("down for 0s", shown)
        self.assertIn("Connection was refused", shown)
        self.assertIn("tried again in", shown)

    def test_what_is_not_possible(self) -> None:
        self.start()
        for arguments, words in (
            (("drain", "nowhere", self.endpoint()), "there is no target nowhere; there is next"),
            (("drain", "next", "tcp://127.0.0.1:1"), "has no endpoint tcp://127.0.0.1:1"),
            (("weight", "next", self.endpoint(), "0"), "a weight is 1 to"),
        ):
            result = self.mailgate("pool", *arguments)
            self.assertEqual(result.exit_code, 1, arguments)
            self.assertIn(words, result.output)


class TheSockets(AdministrationCase):
    def test_modes_of_the_control_socket(self) -> None:
        self.start(more="control {\n    socket_mode 0600\n}")
        path = self.home / "control.sock"
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.write(more="control {\n    socket_mode 0660\n}")
        self.assertEqual(self.mailgate("reload").exit_code, 0)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o660)

    def test_it_is_gone_after_the_stop_and_a_stale_one_is_replaced(self) -> None:
        process = self.start()
        process.kill()
        self.assertTrue((self.home / "control.sock").exists())
        again = self.start()
        self.assertEqual(self.mailgate("health").exit_code, 0)
        again.stop()
        self.assertFalse((self.home / "control.sock").exists())

    def test_another_gateway_has_it(self) -> None:
        with socket.socket(socket.AF_UNIX) as taken:
            taken.bind(str(self.home / "control.sock"))
            taken.listen()
            process = self.start()
            self.assertTrue(process.wait_for_line("control.unavailable"))
            process.stop()
            self.write(more="control {\n    socket_mode 0600\n}")
            refused = GatewayProcess(self.path)
            self.addCleanup(refused.kill)
            self.assertEqual(refused.wait(), 1)
            self.assertIn("control socket", refused.log)

    def test_an_admin_address_shows_monitoring_to_all_and_the_rest_by_token(self) -> None:
        token = self.home / "token"
        token.write_text("sesame\n")
        token.chmod(0o600)
        self.start(more=f"admin tcp://127.0.0.1:{self.admin} {{\n    token view file:{token}\n}}")
        self.assertEqual(self.ask("GET", "/health/ready")[0], 200)
        self.assertEqual(self.ask("GET", "/health/ready", Host="attacker.example")[0], 401)
        status, body = self.ask("GET", "/v1/status")
        self.assertEqual((status, sorted(body)), (401, ["error"]))
        self.assertEqual(self.ask("GET", "/v1/status", Authorization="Bearer sesame")[0], 200)
        status, body = self.ask("POST", "/v1/reload", "{}", Authorization="Bearer sesame", Content_Type="application/json")
        self.assertEqual((status, body["error"]), (403, "this needs the role admin, you have view"))
        self.assertEqual(self.ask("GET", "/v1/nothing", Authorization="Bearer sesame")[0], 404)

    def test_admin_addresses_come_and_go_with_a_reload(self) -> None:
        self.start()
        with self.assertRaises(ConnectionRefusedError):
            self.ask("GET", "/health/live")
        self.write(more=f"admin tcp://127.0.0.1:{self.admin}")
        self.assertEqual(self.mailgate("reload").exit_code, 0)
        self.assertEqual(self.ask("GET", "/health/live"), (200, {"live": True}))
        self.write()
        self.assertEqual(self.mailgate("reload").exit_code, 0)
        with self.assertRaises(ConnectionRefusedError):
            self.ask("GET", "/health/live")

    def test_what_is_wrong_with_a_request(self) -> None:
        self.start()
        head = b"Host: x\r\nConnection: close\r\n"
        for request, status, words in (
            (b"GET /v2/status HTTP/1.1\r\n%s\r\n" % head, b"404", b"there is no /v2/status"),
            (b"PUT /v1/status HTTP/1.1\r\n%s\r\n" % head, b"405", b"takes GET"),
            (b"POST /v1/reload HTTP/1.1\r\n%sContent-Length: 2\r\n\r\n{}" % head, b"415", b"application/json"),
            (_post(head, b"{"), b"400", b"no JSON"),
            (_post(head, b"[]"), b"400", b"no JSON object"),
            (_post(head, b'{"dry_run": 1}'), b"400", b"`dry_run` is true or false"),
            (_post(head, b"x" * 70_000), b"413", b"65536"),
            (_chunked(head, b"x" * 70_000), b"413", b"65536"),
        ):
            answer = self.raw(request)
            self.assertEqual(answer.split(b" ")[1], status, answer)
            self.assertIn(words, answer)
            self.assertEqual(list(json.loads(answer.partition(b"\r\n\r\n")[2])), ["error"])


_POST = b"POST /v1/reload HTTP/1.1\r\nContent-Type: application/json\r\n"


def _post(head: bytes, body: bytes) -> bytes:
    return _POST + b"%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body)


def _chunked(head: bytes, body: bytes) -> bytes:
    chunks = b"".join(b"1000\r\n%s\r\n" % body[at : at + 4096] for at in range(0, len(body) - 4096, 4096))
    return _POST + b"%sTransfer-Encoding: chunked\r\n\r\n%s" % (head, chunks)


class TheMetrics(AdministrationCase):
    def metrics(self) -> dict[str, float]:
        """``name{label="value",…}`` to its value, as the parser of Prometheus reads the page."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=20)
        self.addCleanup(connection.close)
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        self.assertTrue((answer.getheader("Content-Type") or "").startswith("text/plain; version=0.0.4"))
        found = {}
        for family in text_string_to_metric_families(answer.read().decode()):
            self.assertTrue(family.documentation, family.name)
            for sample in family.samples:
                self.assertTrue(sample.name.startswith("mailgate_"), sample.name)
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}"] = sample.value
        return found

    def test_what_happens_is_counted_and_what_has_not_happened_is_0(self) -> None:
        self.start(more=f"admin tcp://127.0.0.1:{self.admin}", listener="    limits {\n        ip rate 1000 1s\n    }")
        listener = f"listener=smtp tcp://127.0.0.1:{self.smtp}"
        before = self.metrics()
        self.assertEqual(before[f"mailgate_messages_total{{{listener},result=accepted}}"], 0)
        self.assertEqual(before["mailgate_log_events_total{event=message.done}"], 0)
        self.assertEqual(self.send("b@y.test"), 250)
        self.assertEqual(self.send("b@relay.test"), 451)
        self.write(more=f"admin tcp://127.0.0.1:{self.admin}", listener="    banner two")
        self.assertEqual(self.mailgate("reload").exit_code, 0)
        self.assertEqual(self.send("b@y.test"), 250)
        after = self.metrics()
        endpoint = f"endpoint=tcp://127.0.0.1:{self.dead}"
        for name, value in {
            f"mailgate_connections_total{{{listener}}}": 3,
            f"mailgate_messages_total{{{listener},result=accepted}}": 2,
            f"mailgate_recipients_total{{{listener},result=accepted}}": 2,
            f"mailgate_recipients_total{{{listener},result=deferred}}": 1,
            f"mailgate_replies_total{{class=3xx,{listener}}}": 2,
            f"mailgate_replies_total{{class=4xx,{listener}}}": 1,
            "mailgate_deliveries_total{result=accepted,target=maildir ./mail}": 2,
            "mailgate_deliveries_total{result=accepted,target=next}": 0,
            f"mailgate_endpoint_up{{{endpoint},target=next}}": 0,
            "mailgate_reloads_total{verdict=reloaded}": 1,
            "mailgate_configuration_generation{}": 2,
            "mailgate_log_events_total{event=message.done}": 2,
            f"mailgate_sessions{{{listener}}}": 0,
        }.items():
            self.assertEqual(after.get(name), value, name)
        self.assertGreater(after["mailgate_process_open_fds{}"], 5)
        self.assertIn("mailgate_reactor_lag_seconds_bucket{le=0.001}", after)
        self.assertFalse([name for name in after if "b@y.test" in name or "a@x.test" in name])
