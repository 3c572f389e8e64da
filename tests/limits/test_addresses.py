"""Whom addresses count for."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.limits.addresses import counted_as, network_of


class Addresses(SynchronousTestCase):
    def test_table(self) -> None:
        for address, counted in (
            ("", ""),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::", "2001:db8:1:2::/64"),
            ("fd00::1", "fd00::/64"),
            ("2001:db8::1%eth0", "2001:db8::/64"),
            ("::1", "::1"),
            ("fe80::1%eth0", "fe80::1%eth0"),
            ("64:ff9b::c000:201", "64:ff9b::c000:201"),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
            ("not:an:address", "not:an:address"),
        ):
            self.assertEqual(counted, counted_as(address), address)

    @given(st.integers(0, 2**128 - 1), st.integers(0, 2**64 - 1))
    def test_neighbours_are_one_client_and_strangers_are_not(self, number: int, host: int) -> None:
        one, neighbour = IPv6Address(number), IPv6Address(number >> 64 << 64 | host)
        by_itself = any(counted_as(str(ip)) == str(ip) for ip in (one, neighbour))
        self.assertTrue(by_itself or counted_as(str(one)) == counted_as(str(neighbour)))
        self.assertNotEqual(counted_as(str(one)), counted_as(str(IPv6Address(number ^ 1 << 64))))

    @given(st.ip_addresses())
    def test_every_address_counts(self, address: object) -> None:
        self.assertTrue(counted_as(str(ip_address(str(address)))))

    def test_networks_as_text(self) -> None:
        self.assertEqual(network_of("192.0.2.77", 24, 64), "192.0.2.0/24")
        self.assertEqual(network_of("2001:db8::1%eth0", 24, 48), "2001:db8::/48")
        for nothing in ("nonsense", ""):
            self.assertEqual(network_of(nothing, 24, 64), "")
