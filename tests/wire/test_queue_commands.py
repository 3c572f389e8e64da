"""`mailgate queue` against a running gateway, over its control socket."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import time
import urllib.request
from typing import Any

from click.testing import Result
from prometheus_client.parser import text_string_to_metric_families

from tests.support.process import GatewayProcess
from tests.wire.test_administration import AdministrationCase


class QueueCommandCase(AdministrationCase):
    """A queue in front of a next hop that refuses connections, and one in front of a maildir."""

    def write(self, *, more: str = "", listener: str = "", addresses: str = "", queue: str = "") -> None:
        self.path.write_text(
            f"hostname gateway.test\nstate_dir {self.home}\nruntime_dir {self.home}\ntls off\n{more}\n"
            f"target.smtp next {{\n    targets tcp://127.0.0.1:{self.dead}\n}}\n"
            "target.maildir mail ./mail\n"
            f"target.queue outbound {{\n    target &next\n    retry 1h\n{queue}"
            "    bounce {\n        deliver_to &mail\n    }\n}\n"
            "target.queue local {\n    target &mail\n    bounce {\n        discard\n    }\n}\n"
            f"smtp tcp://127.0.0.1:{self.smtp} {addresses} {{\n{listener}\n"
            "    destination local.test {\n        deliver_to &local\n    }\n"
            "    default_destination {\n        deliver_to &outbound\n    }\n}\n"
        )

    def queue(self, *arguments: str) -> Result:
        return self.mailgate("queue", *arguments)

    def ok(self, *arguments: str) -> str:
        result = self.queue(*arguments)
        self.assertEqual(result.exit_code, 0, (arguments, result.output))
        return result.output

    def json(self, *arguments: str) -> Any:
        found = json.loads(self.ok(*arguments, "--json"))
        self.assertEqual(found["version"], 1)
        return found

    def entries(self, *arguments: str) -> list[dict[str, Any]]:
        return self.json("ls", *arguments)["entries"]  # type: ignore[no-any-return]

    def submit(self, *recipients: str, process: GatewayProcess) -> None:
        """Queued. The first is tried once; then the destination backs off, for all of them."""
        retries = process.log.count("queue.retry")
        for recipient in recipients:
            self.assertEqual(self.send(recipient), 250)
            self.wait(lambda: process.log.count("queue.retry") > retries)
        # The line in the log comes before what it says is written down.
        self.wait(lambda: not any(one["in_flight"] for one in self.json("stats")["queues"]))

    def wait(self, happened: Any) -> None:
        deadline = time.monotonic() + 20
        while not happened():
            self.assertLess(time.monotonic(), deadline, "it did not happen")
            time.sleep(0.02)

    def mails(self) -> list[str]:
        folder = self.home / "mail" / "new"
        return sorted(path.read_text() for path in folder.iterdir()) if folder.exists() else []


class Looking(QueueCommandCase):
    def test_what_waits_and_why(self) -> None:
        process = self.start()
        self.assertEqual(self.ok().split("\n")[0], "outbound: 0 recipients")
        self.assertEqual(self.ok("ls"), "nothing is queued\n")
        self.submit("b@one.test", "c@two.test", process=process)
        survey = self.ok().splitlines()
        self.assertEqual(
            survey[:6],
            [
                "outbound: 2 recipients",
                "         all  <5m  <15m  <1h  <4h  <1d  <3d  older",
                "  &next    2    2     .    .    .    .    .      .",
                "  last answers:",
                "  1  451 4.4.1 The next hop can't be reached, try again later",
                "",
            ],
        )
        listed = self.ok("ls")
        self.assertIn("<a@x.test>  outbound → next\n    <b@one.test>  waiting, next in ", listed)
        first, second = self.entries()
        self.assertEqual((first["queue"], first["recipients"][0]["address"]), ("outbound", "b@one.test"))
        self.assertEqual(first["recipients"][0]["last"]["class"], "connection")
        why = self.ok("why", first["id"])
        self.assertIn("<b@one.test> waits for its next attempt, in ", why)
        self.assertIn("attempt 1 failed, class connection: 451 4.4.1 ", why)
        why = self.ok("why", second["id"])
        self.assertIn("<c@two.test> is due\n  it was not tried yet\n  &next could not be reached since ", why)
        self.assertIn("1 failure: The next hop can't be reached, try again later); one delivery tries it in ", why)
        shown = self.ok("show", first["id"])
        self.assertIn("history:\n", shown)
        self.assertIn("  arrived 20", shown)
        self.assertIn("outbound: 2 waiting, 0 held, 0 reports owed, 0 removed, 0 in flight", self.ok("stats"))
        self.assertEqual([one["queue"] for one in self.json("stats", "--queue", "local")["queues"]], ["local"])

    def test_status_and_metrics(self) -> None:
        process = self.start(more=f"admin tcp://127.0.0.1:{self.admin}")
        self.submit("b@one.test", "c@two.test", process=process)
        self.ok("hold", "--where", 'rcpt == "c@two.test"')
        self.assertIn("queue outbound: 1 waiting, 1 held, 0 in flight, oldest 20", self.mailgate("status").output)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=20) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}
        for name, value in (
            (("mailgate_queue_recipients", "outbound", "waiting"), 1),
            (("mailgate_queue_recipients", "outbound", "held"), 1),
            (("mailgate_queue_recipients", "local", "waiting"), 0),
            (("mailgate_queue_oldest_seconds", "local"), 0),
            (("mailgate_queue_paused", "outbound"), 0),
            (("mailgate_queue_in_flight", "outbound"), 0),
            (("mailgate_queue_destinations_down", "outbound"), 1),
            (("mailgate_queue_damaged_rows", "outbound"), 0),
            (("mailgate_queue_ends_total", "delivered", "outbound"), 0),
        ):
            self.assertEqual(samples[name], value, name)
        self.assertLess(0, samples["mailgate_queue_oldest_seconds", "outbound"])

    def test_where_chooses_recipients_over_many_pages(self) -> None:
        process = self.start()
        self.submit("b@one.test", "c@two.test", "d@two.test", process=process)
        found = self.entries("--where", 'rcpt_domain == "two.test" and retries == 0')
        self.assertEqual([entry["recipients"][0]["address"] for entry in found], ["c@two.test", "d@two.test"])
        self.assertEqual(len(self.entries("--limit", "2")), 2)
        self.assertIn("the first 1; for more: --limit", self.ok("ls", "--limit", "1", "--where", "age < 1h"))
        self.assertEqual(self.ok("ls", "--where", "held"), "nothing matches\n")

    def test_a_wrong_expression_has_a_caret(self) -> None:
        self.start()
        result = self.queue("ls", "--where", 'sendr == "x"')
        self.assertEqual(result.exit_code, 2)
        self.assertIn('\n  sendr == "x"\n  ^^^^^ ', result.output)

    def test_content_and_export(self) -> None:
        process = self.start()
        self.submit("b@one.test", process=process)
        (entry,) = self.entries()
        self.assertIn("Subject: x\r\n\r\nhello\r\n", self.queue("cat", entry["id"]).stdout_bytes.decode())
        folder = self.home / "out"
        self.assertEqual(self.ok("export", str(folder)), "1 messages\n")
        process.stop()
        offline = self.home / "offline"
        self.assertEqual(self.ok("export", str(offline), "--offline"), "1 messages\n")
        for directory in (folder, offline):
            content, envelope = sorted(directory.iterdir())
            self.assertEqual(stat.S_IMODE(content.stat().st_mode), 0o600)
            self.assertTrue(content.read_bytes().endswith(b"\r\n\r\nhello\r\n"))
            self.assertEqual(json.loads(envelope.read_text())["recipients"][0]["address"], "b@one.test")
        self.assertEqual(self.queue("ls").exit_code, 3)

    def test_what_is_not_there(self) -> None:
        self.start()
        for arguments, words in (
            (("show", "nothing.1"), "no queue has a message nothing.1"),
            (("why", "nothing.1"), "no queue has a message nothing.1"),
            (("ls", "--queue", "other"), "there is no queue other; there is outbound, local"),
            (("hold", "nothing.1"), "no queue has a message nothing.1"),
            (("reroute", "--to", "nowhere", "--where", "age > 0s"), "there is no target nowhere"),
        ):
            result = self.queue(*arguments)
            self.assertEqual(result.exit_code, 1, (arguments, result.output))
            self.assertIn(words, result.output)
        self.assertEqual(self.queue("hold").exit_code, 2)


class Acting(QueueCommandCase):
    def test_hold_release_rm_undo_leave_their_lines_in_the_history(self) -> None:
        process = self.start()
        self.submit("b@one.test", "c@two.test", process=process)
        first, second = (entry["id"] for entry in self.entries())
        self.assertIn("1 recipients of 1 messages would be changed: hold", self.ok("hold", first, "--dry-run"))
        self.assertEqual(self.entries("--where", "held"), [])
        self.ok("hold", first)
        who = f"uid {os.getuid()} (admin)"
        self.assertIn(f"<b@one.test> is held: by {who}", self.ok("why", first))
        self.assertEqual(self.json("rm", "--where", "held")["changed"], 1)
        self.assertEqual([entry["id"] for entry in self.entries()], [second])
        self.assertIn("was removed", self.ok("why", first))
        self.assertEqual(self.queue("rm", first).exit_code, 1)
        self.ok("undo", first)
        self.assertEqual(self.entries("--where", "held")[0]["id"], first, "it was held before it was removed")
        self.ok("release", first)
        history = [line["text"] for line in self.json("show", first)["entries"][0]["history"]]
        self.assertEqual(
            [line for line in history if " by uid" in line],
            [f"{word} by {who}: <b@one.test>" for word in ("held", "removed", "put back", "released")],
        )
        self.assertIn("queue.act", process.log)

    def test_retry_tries_at_once_where_the_destination_backs_off(self) -> None:
        process = self.start()
        self.submit("b@one.test", process=process)
        attempts = process.log.count("queue.retry")
        self.ok("retry", "--where", "age > 0s")
        self.wait(lambda: process.log.count("queue.retry") > attempts)

    def test_bounce_makes_a_report(self) -> None:
        process = self.start()
        self.submit("b@one.test", process=process)
        (entry,) = self.entries()
        self.ok("bounce", entry["id"])
        self.wait(self.mails)
        (report,) = self.mails()
        self.assertIn("To: <a@x.test>", report)
        self.assertIn("Action: failed", report)
        self.wait(lambda: self.queue("show", entry["id"]).exit_code == 1)

    def test_reroute_sends_it_elsewhere(self) -> None:
        process = self.start()
        self.submit("b@one.test", "c@two.test", process=process)
        self.assertEqual(self.queue("reroute", "--to", "outbound", "--where", "age > 0s", "--queue", "outbound").exit_code, 1)
        self.ok("reroute", "--to", "mail", "--where", 'rcpt_domain == "two.test"')
        self.wait(self.mails)
        self.assertIn("for <c@two.test>", self.mails()[0])
        self.assertEqual([entry["recipients"][0]["address"] for entry in self.entries()], ["b@one.test"])

    def test_roles(self) -> None:
        token = self.home / "token"
        token.write_text("sesame\n")
        token.chmod(0o600)
        process = self.start(more=f"admin tcp://127.0.0.1:{self.admin} {{\n    token operate file:{token}\n}}")
        self.submit("b@one.test", process=process)
        (entry,) = self.entries()
        bearer = {"Authorization": "Bearer sesame", "Content_Type": "application/json"}
        status, body = self.ask("POST", "/v1/queue", json.dumps({"action": "hold", "ids": [entry["id"]]}), **bearer)
        self.assertEqual((status, body["changed"]), (200, 1), body)
        self.assertIn("held by a token (operate)", self.ok("show", entry["id"]))
        self.assertEqual(self.ask("GET", f"/v1/queue/content?queue=outbound&number={entry['number']}", **bearer)[0], 403)
        self.assertEqual(self.ask("GET", "/v1/queue")[0], 401)

    def test_what_is_wrong_with_a_request(self) -> None:
        token = self.home / "token"
        token.write_text("sesame\n")
        token.chmod(0o600)
        self.start(more=f"admin tcp://127.0.0.1:{self.admin} {{\n    token admin file:{token}\n}}")
        bearer = {"Authorization": "Bearer sesame", "Content_Type": "application/json"}
        for body in (
            {},
            {"action": "burn", "where": "held"},
            {"action": "hold"},
            {"action": "hold", "where": "held", "ids": []},
            {"action": "hold", "ids": [1]},
            {"action": "hold", "ids": ["x"] * 1001},
            {"action": "hold", "where": "held", "after": "x"},
            {"action": "hold", "where": "held", "after": "elsewhere:1"},
            {"action": "reroute", "where": "held"},
        ):
            status, answer = self.ask("POST", "/v1/queue", json.dumps(body), **bearer)
            self.assertEqual((status, sorted(answer)), (400, ["error"]), body)
        self.assertEqual(self.ask("GET", "/v1/queue/entries?limit=1000000", **bearer)[0], 400)


class Damage(QueueCommandCase):
    def test_a_damaged_entry_is_counted_and_stops_no_listing(self) -> None:
        process = self.start()
        self.submit("b@one.test", "c@two.test", process=process)
        process.stop()
        with sqlite3.connect(self.home / "queue" / "outbound" / "1.sqlite") as connection:
            connection.execute("UPDATE entry SET header = 'x' WHERE id = 1")
        connection.close()
        process = self.start()
        self.assertEqual([entry["number"] for entry in self.entries()], [2])
        self.assertIn("2 damaged rows were set aside", self.ok("stats"))


class Files(QueueCommandCase):
    def test_every_file_of_a_queue_is_served(self) -> None:
        process = self.start()
        self.submit("b@one.test", "c@two.test", process=process)
        process.stop()
        folder = self.home / "queue" / "outbound"
        (folder / "1.sqlite").rename(folder / "3.sqlite")
        (folder / "1.sqlite.lock").unlink()
        process = self.start()
        self.assertEqual(len(self.entries()), 2)
        process.stop()
        shutil.copy(folder / "3.sqlite", folder / "7.sqlite")
        process = self.start()
        found = self.entries()
        self.assertEqual([entry["recipients"][0]["address"] for entry in found], ["b@one.test", "c@two.test"] * 2)
        self.assertEqual(len({entry["number"] for entry in found}), 4)
        self.assertEqual(len(self.entries("--where", 'rcpt_domain == "two.test"')), 2)
        self.assertEqual(self.json("stats", "--queue", "outbound")["queues"][0]["waiting"], 4)
        self.assertIn("  &next    4    4", self.ok())
        self.assertEqual(self.json("reroute", "--to", "mail", "--where", 'rcpt_domain == "two.test"')["changed"], 2)
        self.wait(lambda: len(self.mails()) == 2)
        self.assertIn("hello", self.ok("cat", found[2]["id"]))
        self.assertEqual(self.json("rm", "--where", "true")["changed"], 2)
        self.assertEqual(self.ok("ls"), "nothing is queued\n")

    def test_files_of_a_queue_that_is_not_configured_stop_the_start_and_a_reload(self) -> None:
        process = self.start()
        self.submit("b@one.test", process=process)
        text = self.path.read_text()
        self.path.write_text(text.replace("target.queue outbound", "target.queue other").replace("&outbound", "&other"))
        result = self.mailgate("reload")
        self.assertEqual(result.exit_code, 1)
        words = "1 recipients wait in it, and the configuration has no `target.queue outbound`"
        self.assertIn(words, result.output)
        process.stop()
        refused = GatewayProcess(self.path)
        self.addCleanup(refused.kill)
        self.assertEqual(refused.wait(), 1)
        self.assertIn(words, refused.log)
        held = GatewayProcess(self.path, "--orphans", "hold")
        self.addCleanup(held.kill)
        held.wait_until_ready()
        self.assertIn("queue.orphan", held.log)
        self.assertEqual(self.ok("export", str(self.home / "out"), "--offline", "--queue", "outbound"), "1 messages\n")
        held.stop()
        self.path.write_text(text)
        self.start_again()
        self.assertEqual(len(self.entries()), 1)

    def start_again(self) -> None:
        process = GatewayProcess(self.path)
        self.addCleanup(process.kill)
        process.wait_until_ready()
