"""/etc/resolv.conf and /etc/hosts."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from mailgate.dns.system import ResolvConf, parse_hosts, parse_resolv_conf, read_hosts, read_resolv_conf


class ResolvConfTests(SynchronousTestCase):
    def test_files(self) -> None:
        for text, expected in (
            ("", ResolvConf(("127.0.0.1",), 5.0, 2)),
            ("nameserver 192.0.2.53\n", ResolvConf(("192.0.2.53",))),
            ("# nameserver 1.1.1.1\n; nameserver 2.2.2.2\nnameserver ::1 # here\n", ResolvConf(("::1",))),
            ("nameserver fe80::1%eth0\n", ResolvConf(("fe80::1%eth0",))),
            ("".join(f"nameserver 192.0.2.{n}\n" for n in range(1, 6)), ResolvConf(("192.0.2.1", "192.0.2.2", "192.0.2.3"))),
            ("nameserver nonsense\nnameserver\n", ResolvConf()),
            ("search corp.example\ndomain corp.example\noptions ndots:5 timeout:1 attempts:3 rotate\n", ResolvConf((), 1.0, 3)),
            ("options timeout:999 attempts:0\n", ResolvConf((), 30.0, 1)),
            ("options timeout:x attempts:\n", ResolvConf()),
        ):
            found = parse_resolv_conf(text)
            self.assertEqual(
                found, expected if expected.servers else ResolvConf(("127.0.0.1",), expected.timeout, expected.attempts)
            )

    def test_no_file(self) -> None:
        self.assertEqual(read_resolv_conf("/nonexistent/resolv.conf"), ResolvConf())


class HostsTests(SynchronousTestCase):
    def test_a_file(self) -> None:
        hosts = parse_hosts(
            "127.0.0.1 localhost\n::1 localhost ip6-localhost # six\n10.0.0.1\tStore1.internal store1\n10.0.0.2 store1\n"
            "10.0.0.1 store1\nnonsense here\n10.0.0.3\n# 10.0.0.4 comment\n2001:DB8:0::1 six.\n"
        )
        self.assertEqual(
            hosts.addresses,
            {
                "localhost": ("127.0.0.1", "::1"),
                "ip6-localhost": ("::1",),
                "store1.internal": ("10.0.0.1",),
                "store1": ("10.0.0.1", "10.0.0.2"),
                "six": ("2001:db8::1",),
            },
        )
        self.assertEqual(hosts.names["10.0.0.1"], "Store1.internal")
        self.assertEqual(hosts.names["2001:db8::1"], "six")

    def test_no_file(self) -> None:
        self.assertEqual(read_hosts("/nonexistent/hosts").addresses, {})
