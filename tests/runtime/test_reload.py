"""Reloads, in simulation: who serves whom, what is carried over, and that what can't be done changes nothing."""

from __future__ import annotations

import gc
import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory

from mailgate.modules.table.file import FileTable
from mailgate.modules.target.smtp import SmtpTarget
from mailgate.registry import Module
from mailgate.runtime import CannotBind, Companion, Outcome, Verdict, live
from mailgate.testing.client import RawClient, connect
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.network import adapters_for
from mailgate.tls.client import ClientContext
from tests.support.ledger import message
from tests.support.scenario import SMTP, SimulatedCase

OTHER = "tcp://127.0.0.1:2526"


class ReloadCase(SimulatedCase):
    def setUp(self) -> None:
        super().setUp()
        self.store = self.hop()

    def text(self, *, listener: str = "", target: str = "", more: str = "", address: str = SMTP, hops: str = "") -> str:
        return (
            f"hostname gateway.test\ntarget.smtp next {{\n    targets {hops or self.store.endpoint}\n{target}\n}}\n"
            f"smtp {address} {{\n    tls off\n{listener}\n    deliver_to &next\n}}\n{more}"
        )

    def begin(self, **options: str) -> None:
        self.gateway(self.text(**options).removeprefix("hostname gateway.test\n"))

    def reload(self, text: str | None = None, **options: str) -> Outcome:
        assert self.running is not None
        return self.reactor.run(self.running.reload(text or self.text(**options)))

    def reloaded(self, **options: str) -> Outcome:
        outcome = self.reload(**options)
        self.assertIs(outcome.verdict, Verdict.DONE, outcome)
        return outcome

    def refused(self, text: str | None = None, **options: str) -> Outcome:
        """Nothing may change by it."""
        assert self.running is not None
        before, generation = self.running.live.current, self.running.live.generation
        outcome = self.reload(text, **options)
        self.assertIs(outcome.verdict, Verdict.REFUSED, outcome)
        self.assertIs(self.running.live.current, before)
        self.assertEqual(self.running.live.generation, generation)
        self.assertEqual(self.running.live.old, [])
        self.check_alive()
        return outcome

    def help(self, client: RawClient) -> bytes:
        """The first line of the hello reply says which configuration a session has."""
        return self.ask(client, b"EHLO again.test").split(b"\r\n")[0]

    def listening(self, port: int) -> bool:
        return self.reactor.find_port(("127.0.0.1", port)) is not None


class WhoServes(ReloadCase):
    def test_new_sessions_have_the_new_configuration_and_old_ones_keep_theirs(self) -> None:
        self.begin(listener='    helo_response "%s old %s"')
        before = self.client()
        self.reloaded(listener='    helo_response "%s new %s"')
        after = self.client()
        self.assertIn(b" old ", self.help(before))
        self.assertIn(b" new ", self.help(after))
        self.assertEqual(self.deliver(before, b"a@y.test")[-1][:3], b"250")
        self.assertEqual(self.deliver(after, b"b@y.test")[-1][:3], b"250")
        self.reactor.run(before.quit())
        self.reactor.run(after.quit())

    def test_an_idle_session_is_not_cut_off_and_the_last_one_releases_its_configuration(self) -> None:
        self.begin()
        assert self.running is not None
        first, second = self.client(), self.client()
        self.reloaded(listener="    max_recipients 7")
        self.reactor.settle(200)
        self.assertEqual(self.ask(first, b"NOOP")[:3], b"250")
        self.reactor.run(first.quit())
        self.reactor.settle(1)
        self.assertEqual(len(self.running.live.old), 1)
        self.assertEqual(self.ask(second, b"NOOP")[:3], b"250")
        self.reactor.run(second.quit())
        self.reactor.settle(1)
        self.assertEqual(self.running.live.old, [])
        self.assertEqual(self.running.logged("configuration.released"), ["configuration.released old=0"])

    def test_a_transaction_goes_on_over_the_change(self) -> None:
        self.begin()
        client = self.client()
        self.say(client, b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test>", b"DATA")
        client.send(message("slow")[:20])
        self.reloaded(target="    max_messages 7")
        client.send(message("slow")[20:] + b".\r\n")
        self.assertEqual(self.reactor.run(client.reply())[:3], b"250")
        self.reactor.run(client.quit())
        self.assertEqual(len(self.store.transactions), 1)

    def test_an_address_that_went_stops_accepting_and_its_sessions_go_on(self) -> None:
        self.begin(address=f"{SMTP} {OTHER}")
        there = self.client(OTHER)
        self.reloaded()
        self.reactor.settle(1)
        self.assertFalse(self.listening(2526))
        self.assertEqual(self.deliver(there, b"b@y.test")[-1][:3], b"250")
        self.reactor.run(there.quit())

    def test_an_address_that_came_accepts(self) -> None:
        self.begin()
        self.reloaded(address=f"{SMTP} {OTHER}")
        self.reactor.run(self.client(OTHER).quit())

    def test_an_address_may_move_to_another_block(self) -> None:
        self.begin(address=f"{SMTP} {OTHER}")
        more = f'smtp {OTHER} {{\n    tls off\n    helo_response "%s other %s"\n    deliver_to &next\n}}\n'
        self.reloaded(more=more)
        client = self.client(OTHER)
        self.assertIn(b" other ", self.help(client))
        self.reactor.run(client.quit())

    def test_a_new_socket_mode_is_for_unix_sockets_alone(self) -> None:
        changed: list[str] = []
        self.patch(os, "chmod", lambda path, mode: changed.append(path))
        self.begin()
        assert self.running is not None
        self.reloaded(listener="    socket_mode 0666")
        self.assertEqual([], self.running.logged("listener.socket"))
        self.assertEqual([], changed)  # a file by the name of the address is none of ours

    def test_the_end_of_the_process_drains_old_sessions_too(self) -> None:
        self.begin(listener="    shutdown_timeout 30s")
        assert self.running is not None
        idle, busy = self.client(), self.client()
        self.say(busy, b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test>", b"DATA")
        self.reloaded(listener="    shutdown_timeout 31s")
        stopping = Deferred.fromCoroutine(self.running.stop())
        self.assertEqual(self.reactor.run(idle.reply())[:3], b"421")
        busy.send(message("late") + b".\r\n")
        self.assertEqual(self.reactor.run(busy.reply())[:3], b"250")
        self.reactor.run(stopping)
        self.running = None

    def test_plain_and_implicit_tls_share_a_socket(self) -> None:
        self.begin()
        port = self.reactor.find_port(("127.0.0.1", 25))
        outcome = self.reload(self.text(address="tls://127.0.0.1:25").replace("    tls off", "    tls self_signed"))
        self.assertIs(outcome.verdict, Verdict.DONE, outcome)
        self.assertIs(self.reactor.find_port(("127.0.0.1", 25)), port)
        creator = ClientContext().connection_creator("gateway.test")
        client = self.reactor.run(connect(self.reactor, "tls://127.0.0.1:25", tls=creator))
        self.assertEqual(self.reactor.run(client.reply())[:3], b"220")
        self.reactor.run(client.quit())


class WhatIsCarriedOver(ReloadCase):
    def deliver_one(self) -> None:
        client = self.client()
        self.assertEqual(self.deliver(client, b"b@y.test")[-1][:3], b"250")
        self.reactor.run(client.quit())

    def test_a_pool_whose_target_was_told_the_same(self) -> None:
        self.begin()
        self.deliver_one()
        self.reloaded(listener="    max_recipients 9", target="    hold_timeout 20s")
        self.deliver_one()
        self.assertEqual(len(self.store.connections), 1)
        self.reloaded(listener="    max_recipients 10", target="    hold_timeout 20s")
        self.deliver_one()
        self.assertEqual(len(self.store.connections), 1)

    def test_not_a_pool_whose_target_was_told_otherwise(self) -> None:
        self.begin()
        self.deliver_one()
        self.assertEqual(self.store.open_connections, 1)
        self.reloaded(target="    max_idle 3")
        self.reactor.settle(1)
        self.assertEqual(self.store.open_connections, 0)
        self.deliver_one()
        self.assertEqual(len(self.store.connections), 2)

    def test_the_old_pool_serves_old_sessions_and_keeps_nothing(self) -> None:
        self.begin()
        old = self.client()
        self.deliver(old, b"b@y.test")
        self.reloaded(target="    max_idle 3")
        self.assertEqual(self.deliver(old, b"b@y.test")[-1][:3], b"250")
        self.reactor.settle(1)
        self.assertEqual(self.store.open_connections, 0)
        self.reactor.run(old.quit())

    def test_a_pool_is_closed_by_the_last_who_has_it(self) -> None:
        self.begin()
        old = self.client()
        self.deliver(old, b"b@y.test")
        self.reloaded(listener="    max_recipients 9")
        self.reloaded(listener="    max_recipients 10")
        self.deliver_one()
        self.reactor.run(old.quit())
        self.reactor.settle(1)
        self.assertEqual(self.store.open_connections, 1)
        self.deliver_one()
        self.assertEqual(len(self.store.connections), 1)

    def test_the_health_of_an_endpoint(self) -> None:
        dead = "tcp://127.0.0.1:9"
        self.begin(hops=f"{dead} {self.store.endpoint}")
        self.deliver_one()
        tried = len(self.reactor.connects)
        self.reloaded(hops=f"{dead} {self.store.endpoint}", target="    max_idle 3")
        self.deliver_one()
        self.assertNotIn(("127.0.0.1", 9), [address for _, address in self.reactor.connects[tried:]])

    def test_the_count_of_connections(self) -> None:
        self.begin(listener="    max_connections 2")
        first, second = self.client(), self.client()
        self.reloaded(listener="    max_connections 2\n    max_recipients 9")
        third = self.reactor.run(self._greeting())
        self.assertEqual(third[:3], b"421")
        self.reactor.run(first.quit())
        self.reactor.settle(1)
        self.assertEqual(self.reactor.run(self._greeting())[:3], b"220")
        self.reactor.run(second.quit())

    async def _greeting(self) -> bytes:
        client = await connect(self.reactor, SMTP)
        try:
            return await client.reply()
        finally:
            client.drop()

    def test_inline_targets_have_heirs_too(self) -> None:
        text = f"hostname gateway.test\nsmtp {SMTP} {{\n    tls off\n@    deliver_to smtp {self.store.endpoint}\n}}\n"
        self.gateway(text.replace("@", "").removeprefix("hostname gateway.test\n"))
        self.deliver_one()
        self.assertIs(self.reload(text.replace("@", "    max_recipients 9\n")).verdict, Verdict.DONE)
        self.deliver_one()
        self.assertEqual(len(self.store.connections), 1)


class Refusals(ReloadCase):
    def test_a_broken_file(self) -> None:
        self.begin()
        assert self.running is not None
        outcome = self.refused(listener="    max_recipient 9")
        self.assertIn("unknown directive `max_recipient`", outcome.reason)
        self.assertEqual(outcome.diagnostics[0].code, "E0401")
        self.assertIn("errors=1", self.running.logged("gateway.reload_refused")[0])
        self.assertIn("mailgate.conf:10:5", self.running.logged("configuration.error")[0])

    def test_a_test_block_that_fails(self) -> None:
        self.begin()
        more = 'test "all refused" {\n    from a@x.test\n    rcpt b@y.test\n    expect reject\n}\n'
        outcome = self.refused(more=more)
        self.assertEqual([one.code for one in outcome.diagnostics if one.is_error], ["E0901"])

    def test_a_file_that_was_cut_off_before_its_listeners(self) -> None:
        self.begin()
        assert self.running is not None
        cut = self.text()[: self.text().index("smtp tcp")]
        outcome = self.refused(cut)
        self.assertIn("nothing would listen", outcome.reason)
        self.assertIn("nothing would listen", self.running.logged("gateway.reload_refused")[0])
        self.running.path.write_text(cut)
        self.assertIs(self.reactor.run(self.running.reload(dry_run=True)).verdict, Verdict.REFUSED)
        self.assertIs(self.reload().verdict, Verdict.DONE)

    def test_a_gateway_that_never_listened_may_go_on_so(self) -> None:
        queue = f"target.queue rest {{\n    target smtp {self.store.endpoint}\n@    bounce {{\n        discard\n    }}\n}}\n"
        running = self.gateway(queue.replace("@", ""))
        for text in (queue.replace("@", "    retry 5m\n"), queue.replace("@", "") + self.text().partition("\n")[2]):
            outcome = self.reactor.run(running.reload("hostname gateway.test\n" + text))
            self.assertIs(outcome.verdict, Verdict.DONE, outcome)
        self.check_alive()

    def test_a_file_that_is_gone(self) -> None:
        self.begin()
        assert self.running is not None
        self.running.path.unlink()
        outcome = self.reactor.run(self.running.reload())
        self.assertIs(outcome.verdict, Verdict.REFUSED)
        self.assertIn("No such file", outcome.reason)

    def test_a_port_that_is_taken(self) -> None:
        self.begin()
        self.reactor.listenTCP(2527, Factory(), interface="127.0.0.1")
        outcome = self.refused(address=f"{SMTP} {OTHER} tcp://127.0.0.1:2527")
        self.assertIn("cannot listen on tcp://127.0.0.1:2527", outcome.reason)
        self.reactor.settle(1)
        self.assertFalse(self.listening(2526))

    def test_a_directory_that_holds_for_the_process(self) -> None:
        self.begin()
        outcome = self.refused("state_dir /elsewhere\nruntime_dir " + self.directory + "\n" + self.text())
        self.assertIn("`state_dir` can't change while the gateway runs", outcome.reason)

    def test_a_module_that_can_not_start(self) -> None:
        self.begin()
        client = self.client()
        self.deliver(client, b"b@y.test")

        async def fails(_: Module) -> None:
            raise KeyError("no database")

        self.patch(FileTable, "start", fails)
        path = os.path.join(self.directory, "people")
        with open(path, "w") as file:
            file.write("b@y.test: b@y.test\n")
        rules = (
            "    destination_in &people {\n        deliver_to &next\n    }\n    default_destination {\n        reject\n    }\n"
        )
        text = self.text(more=f"table.file people {path}\n").replace("    deliver_to &next\n", rules)
        outcome = self.refused(text)
        self.assertIn("no database", outcome.reason)
        self.expect_clean_log = False
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual(self.deliver(client, b"b@y.test")[-1][:3], b"250")
        self.assertEqual(len(self.store.connections), 1, "the pool that was shared for a moment goes on")
        self.reactor.run(client.quit())

    def test_a_module_that_never_starts(self) -> None:
        self.begin()

        async def hangs(_: Module) -> None:
            await Deferred()

        self.patch(SmtpTarget, "start", hangs)
        began = self.reactor.seconds()
        self.assertIn("did not start within", self.refused(listener="    max_recipients 9").reason)
        self.assertLess(self.reactor.seconds() - began, live.START_TIME + 2)

    def test_a_companion_that_can_not_have_what_it_needs(self) -> None:
        heard: list[str] = []

        class Picky(Companion):
            def prepare(self, configuration: Any) -> None:
                heard.append("prepare")
                if configuration.listeners[0].max_recipients == 9:
                    raise CannotBind("no control socket")

            def give_up(self) -> None:
                heard.append("give up")

            def adopt(self) -> None:
                heard.append("adopt")

        class Easy(Companion):
            def give_up(self) -> None:
                heard.append("easy gives up")

        self.begin()
        assert self.running is not None
        self.running.live.companions += [Easy(), Picky()]
        self.assertIn("no control socket", self.refused(listener="    max_recipients 9").reason)
        self.assertEqual(heard, ["prepare", "easy gives up"])
        self.reloaded(listener="    max_recipients 10")
        self.assertEqual(heard[2:], ["prepare", "adopt"])

    def test_a_dry_run_changes_nothing_and_says_what_would_change(self) -> None:
        self.begin()
        assert self.running is not None
        before = self.running.live.current
        self.running.write(self.text(listener="    max_recipients 9"))
        outcome = self.reactor.run(self.running.reload(dry_run=True))
        self.assertIs(outcome.verdict, Verdict.FINE)
        self.assertIs(self.running.live.current, before)
        (change,) = outcome.changes
        self.assertEqual((change.before and change.before.value, change.after and change.after.value), ("1000", "9"))
        self.assertEqual(self.running.logged("gateway.reload"), [])


class OneAfterAnother(ReloadCase):
    def test_those_asked_for_while_one_runs_are_one(self) -> None:
        self.begin()
        assert self.running is not None
        held: list[Deferred[Any]] = []
        self._hold_threads(held)
        first, second, third = (self.running.live.reload() for _ in range(3))
        self.assertEqual(len(held), 1)
        self._let_go(held)
        self.assertIs(self.reactor.run(first).verdict, Verdict.DONE)
        self._let_go(held)
        self.assertIs(self.reactor.run(second), self.reactor.run(third))
        self.assertEqual(self.running.live.generation, 3)

    def test_asked_for_before_the_start_it_comes_after_it(self) -> None:
        self.running = WholeGateway(self.text(), adapters_for(self.reactor), self.directory)
        asked = self.running.live.reload()
        self.assertFalse(asked.called)
        self.reactor.run(self.running.start())
        self.assertIs(self.reactor.run(asked).verdict, Verdict.DONE)

    def test_asked_for_during_the_stop_it_is_refused(self) -> None:
        self.begin()
        assert self.running is not None
        client = self.client()
        self.say(client, b"MAIL FROM:<a@x.test>")
        stopping = Deferred.fromCoroutine(self.running.stop())
        self.assertIs(self.reactor.run(self.running.live.reload()).verdict, Verdict.STOPPING)
        self.say(client, b"RSET")
        self.reactor.run(stopping)
        self.running = None

    def test_the_stop_ends_one_that_runs(self) -> None:
        self.begin()
        assert self.running is not None
        held: list[Deferred[Any]] = []
        self._hold_threads(held)
        running, waiting = self.running.live.reload(), self.running.live.reload()
        self.reactor.run(self.running.stop())
        self.assertIs(self.reactor.run(running).verdict, Verdict.STOPPING)
        self.assertIs(self.reactor.run(waiting).verdict, Verdict.STOPPING)
        self.running = None

    def _hold_threads(self, held: list[Deferred[Any]]) -> None:
        """Reading a file takes until `_let_go`."""
        assert self.running is not None
        adapters = self.running.live._adapters

        def run(function: Any, *arguments: Any) -> Deferred[Any]:
            waiting: Deferred[Any] = Deferred()
            waiting.addCallback(lambda _: function(*arguments))
            held.append(waiting)
            return waiting

        object.__setattr__(adapters, "run_in_thread", run)

    def _let_go(self, held: list[Deferred[Any]]) -> None:
        held.pop(0).callback(None)


class Leaks(ReloadCase):
    def test_many_reloads_leave_one_configuration(self) -> None:
        self.begin()
        assert self.running is not None

        def round_trip(number: int) -> None:
            target = f"    max_idle {number % 3 + 1}" if number % 2 else ""
            self.reloaded(listener=f"    max_recipients {number + 9}", target=target)
            client = self.client()
            self.deliver(client, b"b@y.test")
            self.reactor.run(client.quit())
            self.reactor.settle(1)

        counts = []
        for number in range(24):
            round_trip(number)
            if number >= 12:
                counts.append(_modules())
        self.assertEqual(self.running.live.old, [])
        self.assertEqual(counts[-1], counts[0], "modules of released configurations are alive")
        self.assertEqual(self.store.open_connections, 1)


def _modules() -> int:
    gc.collect()
    return sum(isinstance(one, Module) for one in gc.get_objects())
