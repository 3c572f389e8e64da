"""check.authorize_sender: who has logged in writes in their own name (RFC 6409 6.1).

The reverse-path and every address in From must be the user's. Whose an address is, `user_to_email` says: a table from users to
their addresses, to domains (every address of one), or to `*` (any address). Without the table a user is an address, or a local
part in every one of local_domains.

- The null sender passes at MAIL (receipts are sent so); From is looked at all the same.
- `prepare_email` is asked for an address first, so that one that is only an alias is judged as what it leads to.
- `delimiter` makes ann+lists@example.org the address of who has ann@example.org.
- A message without From, with several From fields, or with one that can't be read is nobody's.
- `accept_sender_field` lets another's name in From pass where the field Sender has the user's own, as RFC 5322 3.6.2 means it.
  DMARC and people look at From, so that it is off.

A client that has not logged in fails. A table that can't answer is `on_error`, never a pass. Mail of our own (bounces, reports)
is not asked.

What was found stands in Authentication-Results as the method `auth` (RFC 8601 2.7.4): pass, fail of what `on_fail` lets pass,
none without a login, temperror of what `on_error` lets pass. The address stands there, the login does not: it is nobody else's
business.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

from mailgate.config import values as v
from mailgate.config.schema import Directive
from mailgate.config.text_forms import table_key
from mailgate.message.envelope import Envelope
from mailgate.message.findings import MethodResult
from mailgate.message.header import Header
from mailgate.message.mailboxes import AddressSyntax, Rule, mailboxes
from mailgate.message.message import Message
from mailgate.modules.check._action import AskingCheck
from mailgate.pipeline.check import MessageCheck
from mailgate.pipeline.lookup import WITHOUT_IO, Kept, kept, look_up
from mailgate.registry import Report
from mailgate.smtp.address import Address, AddressError, domain_key, match_key, parse_address, rule_keys
from mailgate.smtp.reply import MailError, Reply, TemporaryError

NOT_LOGGED_IN = Reply(530, "5.7.0", "Authentication required")
NOT_IN_HEADER = Reply(550, "5.7.1", "The address in From is not yours")
NO_AUTHOR = Reply(550, "5.6.0", "The header says not, or not clearly, who the author is")
_FROM = Rule(groups=False)
_SENDER = Rule(groups=False, most=1)


class Found(Enum):
    """Results of the method `auth`."""

    PASS = "pass"
    FAIL = "fail"
    NONE = "none"
    TEMPERROR = "temperror"


class CantBeJudged(Exception):
    """A table did not answer."""


class Judging(MessageCheck):
    """The checks of one message. What an address was found to be is remembered: From is mostly the reverse-path."""

    def __init__(self, check: Any, envelope: Envelope) -> None:
        super().__init__(check, envelope)
        self._known: dict[str, bool] = {}
        self._found = Found.PASS
        self._reason = ""

    async def sender(self, envelope: Envelope) -> None:
        if envelope.attempt.source != "client":
            return
        user = envelope.session.auth_user
        if not user:
            self._is(Found.NONE, "no login")
            self.check.failed(envelope, "no login", NOT_LOGGED_IN)
            return
        sender = envelope.sender
        try:
            is_foreign = not sender.is_null and not await self._owns(user, sender)
        except CantBeJudged as error:
            self._is(Found.TEMPERROR, "can't be asked")
            self.check.unable(envelope, str(error))
            return
        if is_foreign:
            self._is(Found.FAIL, "another's reverse-path")
            self.check.failed(envelope, f"<{sender}> is not {user}'s")

    async def body(self, message: Message) -> None:
        if self.envelope.attempt.source != "client":
            return
        user = self.envelope.session.auth_user
        if self.check.check_header and user:
            await self._judge_header(user, message)
        address = (("smtp.mailfrom", str(self.envelope.sender)),)
        self.envelope.findings_of(self.check).results.append(MethodResult("auth", self._found.value, self._reason, address))

    def _is(self, found: Found, reason: str) -> None:
        """The first thing that is wrong is the result."""
        if self._found is Found.PASS:
            self._found, self._reason = found, reason

    async def _judge_header(self, user: str, message: Message) -> None:
        header = Header(message.header)
        try:
            found = await self._foreign_author(user, header)
        except CantBeJudged as error:
            self._is(Found.TEMPERROR, "can't be asked")
            self.check.unable(self.envelope, str(error))
            return
        except AddressSyntax as error:
            self._is(Found.FAIL, f"From {error}")
            self.check.failed(self.envelope, f"From {error}", NO_AUTHOR)
            return
        if found is not None:
            self._is(Found.FAIL, "another's address in From")
            self.check.failed(self.envelope, f"<{found}> in From is not {user}'s", NOT_IN_HEADER)

    async def _foreign_author(self, user: str, header: Header) -> Address | None:
        """An author that is not the user. :raises AddressSyntax: nobody can say who the authors are."""
        fields = header.values("from")
        if len(fields) != 1:
            raise AddressSyntax("is missing" if not fields else "stands twice")
        for author in mailboxes(fields[0], _FROM):
            if not await self._owns(user, author):
                return None if await self._is_sender(user, header.values("sender")) else author
        return None

    async def _is_sender(self, user: str, fields: Sequence[bytes]) -> bool:
        if not self.check.accept_sender_field or len(fields) != 1:
            return False
        try:
            (sender,) = mailboxes(fields[0], _SENDER)
        except AddressSyntax:
            return False
        return await self._owns(user, sender)

    async def _owns(self, user: str, address: Address) -> bool:
        key = rule_keys(address)[0]
        if key not in self._known:
            self._known[key] = await self.check.owns(user, address)
        return self._known[key]


class AuthorizeSender(AskingCheck):
    """MAIL FROM and From must have addresses of the user who has logged in: others hear 553 5.7.1, and 550 5.7.1 after the dot;
    who has not logged in hears 530 5.7.0."""

    name = "check.authorize_sender"
    message_state = Judging
    refusal = Reply(553, "5.7.1", "This sender's address is not yours")

    user_to_email = Directive(
        "user_to_email",
        v.ModuleLine("table"),
        doc="From a user to addresses, domains, or `*`; without it a user is an address, or a local part in local_domains.",
        origin="maddy",
    )
    prepare_email = Directive(
        "prepare_email",
        v.ModuleLine("table"),
        doc="From an address to what is judged in its place; an address without an entry stays.",
        origin="maddy",
    )
    check_header = Directive("check_header", v.Boolean(), default=True, doc="Whether From is judged too.", origin="maddy")
    accept_sender_field = Directive(
        "accept_sender_field",
        v.Boolean(),
        default=False,
        doc="Whether From may have anybody's address if the field Sender has the user's.",
        origin="maddy",
    )
    delimiter = Directive(
        "delimiter",
        v.String("CHARACTERS"),
        default="",
        doc="Behind one of these a local part may go on: with `+`, ann+lists is ann's.",
    )

    @property
    def marks(self) -> bool:
        return True

    def configure(self, report: Report) -> None:
        if self.user_to_email is None and not self.context.local_domains:
            report.warning(
                self.span,
                "users can send only if they log in with an address",
                code="W0795",
                hint="`user_to_email TABLE`, or `local_domains` at the top level",
            )

    @property
    def kept(self) -> Kept:
        """Whether a dry run may ask: if it may ask the tables."""
        tables = [table for table in (self.user_to_email, self.prepare_email) if table is not None]
        if self.user_to_email is None and self.context.local_domains.waits:
            tables.append(self.context.local_domains.table)
        if any(kept(table) not in WITHOUT_IO for table in tables):
            return Kept.ELSEWHERE
        return Kept.IN_FILE if any(kept(table) is Kept.IN_FILE for table in tables) else Kept.IN_CONFIGURATION

    async def owns(self, user: str, address: Address) -> bool:
        """Whether an address is a user's. :raises CantBeJudged: a table can't say."""
        try:
            judged = await self._prepared(address)
            entries = await self._entries(user)
            return all([await self._has(user, entries, one) for one in judged])
        except MailError as error:
            raise CantBeJudged(error.reason) from error

    async def _prepared(self, address: Address) -> list[Address]:
        """What an address is judged as: all of it must be the user's."""
        values = await look_up(self.prepare_email, rule_keys(address)[0]) if self.prepare_email is not None else ()
        try:
            return [parse_address(one if "@" in one else f"{one}@{address.domain}") for one in values if one] or [address]
        except AddressError as error:
            raise TemporaryError("Bad entry for this address", enhanced="4.3.5", reason=f"prepare_email: {error}") from error

    async def _entries(self, user: str) -> frozenset[str] | None:
        """What the table has for a user, in the form of rules; None if it is the login that says it."""
        if self.user_to_email is not None:
            return frozenset(_entry(value) for value in await look_up(self.user_to_email, table_key(user)) if value)
        return frozenset((table_key(user),)) if "@" in user else None

    async def _has(self, user: str, entries: frozenset[str] | None, address: Address) -> bool:
        for one in self._variants(address):
            key, domain = rule_keys(one)
            if entries is not None:
                if not entries.isdisjoint((key, domain, "*")):
                    return True
            elif match_key(one)[0] == table_key(user) and await self._is_local(domain):
                return True
        return False

    async def _is_local(self, domain: str) -> bool:
        local = self.context.local_domains
        return domain in local.domains or (local.waits and bool(await look_up(local.table, domain)))

    def _variants(self, address: Address) -> list[Address]:
        """The address, and those that it is a sub-address of."""
        local_part = address.local_part
        ends = [place for place, character in enumerate(local_part) if place and character in self.delimiter]
        if local_part.startswith('"'):
            return [address]
        return [address, *(Address(local_part[:end], address.domain) for end in ends)]


def _entry(value: str) -> str:
    return domain_key(value.removeprefix("@")) if "@" not in value[1:] and value != "*" else table_key(value)
