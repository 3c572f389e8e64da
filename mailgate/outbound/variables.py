"""The values of the outbound variables for one delivery: what dynamic settings are asked with (config/dynamic_variables.py).

Made only where something depends on the message. Addresses are in the form in which expressions compare them.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from mailgate.message.envelope import Envelope, Recipient
from mailgate.smtp.address import NULL_ADDRESS, Address, rule_keys

IpAddress: TypeAlias = IPv4Address | IPv6Address


class DeliveryVariables:
    """Of one message on its way to one host. ``mx`` is the host's name or address, None for a unix socket; ``remote_ip`` its
    address as far as it is known; ``local_ip`` is set by what chooses the source address."""

    __slots__ = ("_envelope", "_recipients", "local_ip", "mx", "remote_ip", "size")

    def __init__(
        self,
        envelope: Envelope,
        recipients: Sequence[Recipient],
        size: int | None = None,
        mx: str | None = None,
        remote_ip: IpAddress | None = None,
    ) -> None:
        self._envelope = envelope
        self._recipients = recipients
        self.size = envelope.parameters.size if size is None else size
        self.mx = mx or None
        self.remote_ip = remote_ip
        self.local_ip: IpAddress | None = None

    def to(self, host: str, mx: str = "") -> DeliveryVariables:
        """The same message, on its way to a host, which may be an address: of the host ``mx``, if that is given."""
        return DeliveryVariables(self._envelope, self._recipients, self.size, (mx or host).casefold(), _address(host))

    @property
    def envelope(self) -> Envelope:
        """For what passes on more than expressions see: logins, XCLIENT."""
        return self._envelope

    @property
    def sender(self) -> str:
        return rule_keys(self._envelope.sender)[0]

    @property
    def sender_domain(self) -> str:
        return rule_keys(self._envelope.sender)[1]

    @property
    def client_ip(self) -> IpAddress | None:
        return _address(self._envelope.session.client_ip.partition("%")[0])

    @property
    def auth_user(self) -> str | None:
        return self._envelope.session.auth_user or None

    @property
    def source(self) -> str:
        return self._envelope.attempt.source

    @property
    def priority(self) -> int:
        return self._envelope.attempt.priority

    @property
    def retry_num(self) -> int:
        return self._envelope.attempt.retry_num

    @property
    def notify_num(self) -> int:
        return self._envelope.attempt.notify_num

    @property
    def expires_in(self) -> float | None:
        return self._envelope.attempt.expires_in

    @property
    def queue_age(self) -> float:
        return self._envelope.attempt.queue_age

    @property
    def last_status(self) -> str | None:
        return self._envelope.attempt.last_status or None

    @property
    def last_error(self) -> str | None:
        return self._envelope.attempt.last_error or None

    @property
    def last_code(self) -> int | None:
        return self._envelope.attempt.last_code or None

    @property
    def rcpt(self) -> str:
        return rule_keys(self._first)[0]

    @property
    def rcpt_domain(self) -> str:
        return rule_keys(self._first)[1]

    @property
    def recipients(self) -> tuple[str, ...]:
        return tuple(rule_keys(recipient.address)[0] for recipient in self._recipients)

    @property
    def _first(self) -> Address:
        return self._recipients[0].address if self._recipients else NULL_ADDRESS


def _address(text: str) -> IpAddress | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
