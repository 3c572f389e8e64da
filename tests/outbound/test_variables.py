"""Every outbound variable has a value of its type, for any message."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgate.config.dynamic_variables import OUTBOUND_VARIABLES
from mailgate.config.expression_types import Kind
from mailgate.message.envelope import Attempt, Envelope, Recipient, Session
from mailgate.outbound.variables import DeliveryVariables
from mailgate.smtp.address import NULL_ADDRESS, parse_address
from mailgate.smtp.parameters import MailParameters

TYPES: dict[Kind, Any] = {
    Kind.STRING: str,
    Kind.INTEGER: int,
    Kind.DURATION: float,
    Kind.ADDRESS: (IPv4Address, IPv6Address),
    Kind.LIST: tuple,
}


def variables(**attempt: Any) -> DeliveryVariables:
    session = Session("s1", "tcp://127.0.0.1:25", "gw.example", client_ip="192.0.2.7", auth_user=attempt.pop("user", ""))
    sender = parse_address("Ann@Example.ORG")
    envelope = Envelope("m1", sender, session, MailParameters(size=100), attempt=Attempt(**attempt))
    rcpts = [Recipient(parse_address(text)) for text in ("Bob@Example.NET", "zoe@münchen.example")]
    return DeliveryVariables(envelope, rcpts)


class VariablesTests(SynchronousTestCase):
    def check(self, found: DeliveryVariables) -> None:
        for name, variable in OUTBOUND_VARIABLES.known.items():
            value = getattr(found, name)
            if value is None:
                self.assertTrue(variable.type.optional, name)
            else:
                self.assertIsInstance(value, TYPES[variable.type.kind], name)

    def test_every_variable_has_a_value_of_its_type(self) -> None:
        self.check(variables())
        full = variables(
            user="ann",
            retry_num=2,
            notify_num=1,
            expires_in=5.0,
            queue_age=9.0,
            last_status="unknown",
            last_error="tls",
            last_code=421,
        ).to("192.0.2.25")
        full.local_ip = ip_address("192.0.2.1")
        self.check(full)
        self.assertEqual([name for name in OUTBOUND_VARIABLES.known if getattr(full, name) is None], [])

    def test_nobody_and_nothing(self) -> None:
        nobody = DeliveryVariables(Envelope("m1", NULL_ADDRESS, Session("s1", "unix:///x", "gw.example")), ())
        self.check(nobody)
        self.assertEqual((nobody.sender, nobody.rcpt, nobody.client_ip, nobody.recipients), ("", "", None, ()))

    def test_addresses_are_in_the_form_of_expressions(self) -> None:
        found = variables()
        self.assertEqual((found.sender, found.sender_domain), ("ann@example.org", "example.org"))
        self.assertEqual((found.rcpt, found.rcpt_domain), ("bob@example.net", "example.net"))
        self.assertEqual(found.recipients, ("bob@example.net", "zoe@münchen.example"))

    def test_the_way_to_a_host(self) -> None:
        found = variables().to("MX.example.net")
        self.assertEqual((found.mx, found.remote_ip, found.size), ("mx.example.net", None, 100))
        self.assertEqual(variables().to("2001:db8::1").remote_ip, ip_address("2001:db8::1"))
        self.assertIsNone(variables().to("").mx)
