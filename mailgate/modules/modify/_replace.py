"""What `replace_sender` and `replace_rcpt` share: asking a table for an address, and reading what it says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mailgate.pipeline.lookup import look_up, quoted_local_part
from mailgate.pipeline.modifiers import Modifier
from mailgate.pipeline.router import place
from mailgate.pipeline.samples import answers_offline, table_keys
from mailgate.smtp.address import NULL_ADDRESS, Address, AddressError, match_key, parse_address, rule_keys
from mailgate.smtp.reply import TemporaryError


class Replacing(Modifier):
    """A modifier that asks a table."""

    table: Any

    @property
    def answers_offline(self) -> bool:
        return answers_offline(self.table)

    def sample_keys(self, stranger: str) -> Iterable[str]:
        """Addresses that it may change (pipeline/samples.py)."""
        return table_keys(self.table, stranger)


async def replacements(table: Any, address: Address, *, null_allowed: bool = False) -> tuple[Address, ...]:
    """What a table has for the full address, else for the local part alone; () if nothing. No address comes twice.

    A value without a domain keeps the address's own.

    :raises MailError: the table can't answer, or what it says is no address: 451, since only the operator can help.
    """
    key = rule_keys(address)[0]
    values = await look_up(table, key)
    if not values and address.domain:
        values = await look_up(table, match_key(address)[0])
    found: dict[str, Address] = {}
    for value in values:
        try:
            one = _read(value, address.domain, null_allowed)
        except AddressError as error:
            raise TemporaryError(
                "Bad entry for this address",
                enhanced="4.3.5",
                reason=f"table {getattr(table, 'label', '')}: {value!r} in place of {key!r}: {error}",
                where=place(getattr(table, "span", None)),
            ) from error
        found.setdefault(rule_keys(one)[0], one)
    return tuple(found.values())


def _read(value: str, domain: str, null_allowed: bool) -> Address:
    if value == "<>":
        if not null_allowed:
            raise AddressError("no recipient is null")
        return NULL_ADDRESS
    if not value:
        raise AddressError("an empty value")
    if "@" in value:
        return parse_address(value)
    return parse_address(f"{quoted_local_part(value)}@{domain}" if domain else value)
