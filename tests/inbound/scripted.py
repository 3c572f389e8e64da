"""A pipeline that answers what a test says, and a listener in memory around it."""

from __future__ import annotations

from typing import Any

from mailgate.adapters import Adapters
from mailgate.inbound.ports import Port
from mailgate.inbound.sessions import ConnectionSettings, Sessions
from mailgate.message.envelope import Session
from mailgate.smtp.reply import Reply
from mailgate.smtp.settings import ServerSettings
from mailgate.testing.client import RawClient, connect
from mailgate.testing.network import SimulatedReactor, adapters_for
from mailgate.tls.live import LiveContexts, SitePlan
from mailgate.tls.pairs import self_signed

SENDER_OK = Reply(250, "2.1.0", "Sender ok")
RECIPIENT_OK = Reply(250, "2.1.5", "Recipient ok")
TAKEN = Reply(250, "2.0.0", "Ok: taken")


class ScriptedTransaction:
    """One transaction that answers from ``script``: step → answer, callable that gives it, or exception to raise. What is
    not in it is a success. Everything that happens to it goes into ``log``."""

    def __init__(self, session: Session, message_id: str, script: dict[str, Any], lmtp: bool) -> None:
        self.session = session
        self.id = message_id
        self.script = script
        self.lmtp = lmtp
        self.log: list[Any] = []
        self.recipients: list[str] = []
        self.content = b""
        self.aborted: str | None = None

    def _answer(self, step: str, *arguments: Any, default: Any = None) -> Any:
        answer = self.script.get(step, default)
        if callable(answer):
            answer = answer(*arguments)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def mail(self, sender: Any, parameters: Any) -> Any:
        self.log.append(("mail", str(sender)))
        return self._answer("mail", sender, default=SENDER_OK)

    def rcpt(self, address: Any, parameters: Any) -> Any:
        self.log.append(("rcpt", str(address)))
        self.recipients.append(str(address))
        return self._answer("rcpt", address, default=RECIPIENT_OK)

    def data(self) -> Any:
        self.log.append(("data",))
        return self._answer("data")

    def append(self, content: bytes) -> Any:
        self.content += content
        return self._answer("append", content)

    def end(self) -> Any:
        self.log.append(("end",))
        return self._answer("end", self, default=[TAKEN] * (len(self.recipients) if self.lmtp else 1))

    def abort(self, reason: str = "") -> None:
        self.aborted = reason
        self.log.append(("abort", reason))
        self._answer("abort", reason)


class Lab:
    """A listener on one port of a reactor; ``transactions`` are those that came. ``steps`` is what `Sessions` is told of the
    time before the greeting."""

    def __init__(
        self,
        adapters: Adapters,
        *,
        script: dict[str, Any] | None = None,
        settings: ConnectionSettings | None = None,
        lmtp: bool = False,
        tls: bool = False,
        scheme: str = "tcp",
        path: str = "",
        host: str = "127.0.0.1",
        port: int = 0,
        accept: bool = True,
        steps: dict[str, Any] | None = None,
        **server: Any,
    ) -> None:
        self.script = script if script is not None else {}
        self.transactions: list[ScriptedTransaction] = []
        self._lmtp = lmtp
        self.sessions = Sessions(
            ServerSettings("mx.test", lmtp=lmtp, starttls=tls, **server),
            settings or ConnectionSettings(),
            self._open,
            adapters,
            tls=LiveContexts(SitePlan((self_signed(["mx.test"]),))) if tls else None,
            **(steps or {}),
        )
        address = f"{scheme}://{path or host}"
        self.port = Port(self.sessions, scheme, host, port, path, address, implicit_tls=scheme == "tls")
        if accept:
            self.accept()
        self.address = f"unix://{path}" if scheme == "unix" else f"{scheme}://{host}:{self.port.numbers[0]}"

    def accept(self) -> None:
        self.sessions.accepting = True
        self.port.accept()

    def _open(self, session: Session, message_id: str) -> ScriptedTransaction:
        transaction = ScriptedTransaction(session, message_id, self.script, self._lmtp)
        self.transactions.append(transaction)
        return transaction


class Simulation:
    """A `Lab` on a simulated network and clock."""

    def __init__(self, seed: int = 1, **lab: Any) -> None:
        self.reactor = SimulatedReactor(seed)
        self.lab = Lab(adapters_for(self.reactor), **lab)

    def connect(self, tls: Any = None) -> RawClient:
        return self.reactor.run(connect(self.reactor, self.lab.address, tls=tls))

    def greeted(self, hello: bytes = b"EHLO client.test") -> RawClient:
        client = self.connect()
        self.reply(client)
        if hello:
            self.command(client, hello)
        client.lmtp = self.lab.sessions.server.lmtp
        return client

    def reply(self, client: RawClient) -> bytes:
        return self.reactor.run(client.reply())

    def command(self, client: RawClient, line: bytes) -> bytes:
        return self.reactor.run(client.command(line))

    def deliver(self, client: RawClient, content: bytes = b"Subject: x\r\n\r\nhello\r\n", recipients: int = 1) -> list[bytes]:
        return self.reactor.run(client.deliver(b"a@client.test", [b"b%d@mx.test" % n for n in range(recipients)], content))

    @property
    def transaction(self) -> ScriptedTransaction:
        return self.lab.transactions[-1]
