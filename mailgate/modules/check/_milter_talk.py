"""What check.milter says to its filter: questions about a client and its messages, each with the macros of its stage.

A `Talk` is a turn with the filter, over one link: it leases it, asks, and gives it back. What answers mean is for who asks.

Macros have the names and values that Postfix and Sendmail give them. What nobody knows is left out, but the client's name is
`unknown` then; `macro` lines of the configuration win over ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import mailgate
from mailgate.clients import milter_wire as wire
from mailgate.clients.milter import Client, Link, MilterFailure
from mailgate.clients.milter_wire import MACROS, Command, MilterError, Response
from mailgate.message.envelope import Envelope, Session
from mailgate.smtp.parameters import MailParameters, RcptParameters

_BITS = {"AES_256": "256", "AES256": "256", "CHACHA20": "256", "AES_128": "128", "AES128": "128"}
"""What of a cipher's name tells the length of its key."""


class Talk:
    """See the module's docstring. ``check`` is the `MilterCheck`."""

    def __init__(self, check: Any, session: Session, client: Client) -> None:
        self.client = client
        self.link: Link | None = None
        self._check = check
        self._session = session

    async def begin(self) -> None:
        """:raises MilterFailure: there is no connection to be had."""
        self.link = await self._check.filter.lease(self.client)

    async def begin_anew(self) -> None:
        """The filter has closed a connection that lay idle, which says nothing of it: the same over another one."""
        self.give_up(failed=False)
        await self.begin()

    def end(self, *, in_message: bool, goes_on: bool) -> None:
        """It went well, or was never finished. ``goes_on``: the filter will hear more of this client."""
        link, self.link = self.link, None
        if link is None:
            return
        if link.owed is None:
            self._check.filter.give_back(link, in_message=in_message, goes_on=goes_on)
        else:
            self._check.filter.give_up(link, failed=False)

    def give_up(self, *, failed: bool) -> None:
        link, self.link = self.link, None
        if link is not None:
            self._check.filter.give_up(link, failed=failed)

    async def ask(self, command: Command, packet: bytes, envelope: Envelope | None = None, **about: str) -> wire.Said:
        """What the filter says to it, at once `CONTINUE` where it wants to hear nothing or says nothing; ``about`` are
        further macros.

        :raises MilterFailure: no answer.
        """
        link = self.open_link
        if not link.agreement.wants(command):
            return Response.CONTINUE
        self.tell_macros(command, envelope, **about)
        link.write(packet)
        if not link.agreement.answers(command):
            await link.drained()
            return Response.CONTINUE
        return await self.answer(command)

    async def answer(self, command: Command) -> wire.Said:
        """To what was asked before. Who stops waiting for it leaves it owed."""
        link = self.open_link
        link.owed = command
        said = await link.answer(self._check.times.command)
        link.owed = None
        return said

    @property
    def open_link(self) -> Link:
        if self.link is None:
            raise MilterFailure("no connection")
        return self.link

    async def connect(self) -> wire.Said:
        session = self._session
        return await self.ask(Command.CONNECT, wire.connect(session.client_name, session.client_ip, session.client_port))

    def tell_macros(self, stage: Command, envelope: Envelope | None, **about: str) -> None:
        link = self.open_link
        wanted = link.agreement.macros.get(stage, ())
        if stage is Command.CONNECT and wanted is MACROS[stage]:
            wanted += tuple(f"{{{name}}}" for name in self._check.given_macros)
        if not wanted:
            return
        known = self._known(envelope) | about | self._check.given_macros
        found = [(name, value) for name in dict.fromkeys(wanted) if (value := known.get(name.strip("{}"), ""))]
        if found:
            link.write(wire.macros(stage, found))

    def _known(self, envelope: Envelope | None) -> dict[str, str]:
        session = self._session
        name = session.client_name or "unknown"
        known = {
            "j": session.hostname,
            "_": f"{name} [{session.client_ip}]" if session.client_ip else "localhost",
            "v": f"mailgate {mailgate.__version__}",
            "r": session.protocol,
            "s": session.helo,
            "daemon_name": session.hostname,
            "daemon_addr": session.local_ip,
            "daemon_port": str(session.local_port or ""),
            "if_addr": session.local_ip,
            "if_name": session.hostname,
            "client_addr": session.client_ip,
            "client_name": name,
            "client_port": str(session.client_port or ""),
            "client_ptr": name,
            "client_resolve": "OK" if session.client_name else "FAIL",
            "auth_type": session.auth_mechanism,
            "auth_authen": session.auth_user,
        }
        if session.tls is not None:
            known |= {
                "tls_version": session.tls.version.replace("TLS1.", "TLSv1."),
                "cipher": session.tls.cipher,
                "cipher_bits": next((bits for part, bits in _BITS.items() if part in session.tls.cipher), ""),
                "cert_subject": session.tls.peer_subject,
            }
        if envelope is not None:
            known |= {
                "i": envelope.id,
                "auth_author": (envelope.parameters.auth or "") if session.auth_user else "",
                "mail_addr": str(envelope.sender),
                "mail_host": envelope.sender.domain,
                "mail_mailer": "smtp",
            }
        return known


def of_recipient(address: Any) -> Mapping[str, str]:
    """The macros of one recipient."""
    return {"rcpt_addr": str(address), "rcpt_host": address.domain, "rcpt_mailer": "smtp"}


def mail_words(given: MailParameters) -> list[str]:
    """Parameters as they stand in MAIL."""
    values: dict[str, object] = {
        "SIZE": given.size,
        "BODY": given.body and given.body.value,
        "RET": given.ret,
        "ENVID": given.envid,
        "AUTH": given.auth,
        "MT-PRIORITY": given.priority,
        "HOLDFOR": given.hold_for,
        "HOLDUNTIL": None if given.hold_until is None else _time(given.hold_until),
        "BY": given.by,
    }
    flags = [word for word, is_set in (("SMTPUTF8", given.smtputf8), ("REQUIRETLS", given.requiretls)) if is_set]
    return [*(f"{name}={value}" for name, value in values.items() if value is not None), *flags]


def rcpt_words(given: RcptParameters) -> list[str]:
    """Parameters as they stand in RCPT."""
    words = [f"NOTIFY={','.join(sorted(given.notify))}"] if given.notify else []
    return words + ([f"ORCPT={given.orcpt}"] if given.orcpt is not None else [])


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def unexpected(said: wire.Said, command: Command) -> MilterError:
    return MilterError(f"{said} to {command.name}")
