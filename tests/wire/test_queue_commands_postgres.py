"""`mailgate queue` against a gateway whose queue lies in PostgreSQL: all that is asked of files, and what files do not have."""

from __future__ import annotations

from typing import Any

from tests.support.postgres import shared
from tests.support.process import GatewayProcess
from tests.wire import test_queue_commands as commands


class PostgresCase(commands.QueueCommandCase):
    def setUp(self) -> None:
        self.dsn = shared().database()
        super().setUp()

    def write(self, *, queue: str = "", **options: Any) -> None:
        super().write(queue=f'    store postgres "{self.dsn}"\n{queue}', **options)


class Looking(PostgresCase, commands.Looking):
    pass


class Acting(PostgresCase, commands.Acting):
    pass


class Sharing(PostgresCase):
    def test_a_restart_finds_what_waits(self) -> None:
        process = self.start()
        self.submit("b@one.test", process=process)
        process.stop()
        self.assertEqual(shared().execute(self.dsn, "SELECT * FROM mailgate_outbound.owner"), [])
        again = GatewayProcess(self.path)
        self.addCleanup(again.kill)
        again.wait_until_ready()
        (entry,) = self.entries()
        self.assertEqual(entry["recipients"][0]["address"], "b@one.test")

    def test_another_store_needs_a_restart(self) -> None:
        self.start()
        other = shared().database()
        self.path.write_text(self.path.read_text().replace(self.dsn, other))
        result = self.mailgate("reload")
        self.assertEqual(result.exit_code, 1)
        self.assertIn("target.queue outbound: another `store` needs a restart", result.output)
        self.assertEqual(self.ok("ls"), "nothing is queued\n")

    def test_a_queue_that_moves_into_a_database_leaves_nothing_behind(self) -> None:
        commands.QueueCommandCase.write(self)
        process = GatewayProcess(self.path)
        self.addCleanup(process.kill)
        process.wait_until_ready()
        self.submit("b@one.test", process=process)
        process.stop()
        process = self.start()
        self.submit("c@two.test", process=process)
        self.assertEqual(
            sorted(entry["recipients"][0]["address"] for entry in self.entries()), ["b@one.test", "c@two.test"], self.ok("ls")
        )
        self.assertEqual(shared().execute(self.dsn, "SELECT count(*) FROM mailgate_outbound.entry"), [(1,)])
        process.stop()
        self.assertEqual(self.ok("export", str(self.home / "out"), "--offline", "--queue", "outbound"), "2 messages\n")
