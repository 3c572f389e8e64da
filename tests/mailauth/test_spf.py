"""SPF: openspf.org's suite for RFC 7208, whole; and the limits it leaves out."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.mailauth.spf import MAX_EXPLANATION, NoAnswer, Outcome, Question, Verdict, check_host
from mailgate.mailauth.spf_record import BadRecord, IPAddress, parse_record
from mailgate.net.waiting import start

SUITE = Path(__file__).parent / "rfc7208" / "rfc7208-tests.yml"


class Zone:
    """The suite's notation of zones: by name a list of records, of TIMEOUT, or of {type: TIMEOUT}. Records of SPF are TXT, unless
    the name says itself what its TXT are. Every name of ``silent`` and what begins with `error.` is never answered."""

    def __init__(self, data: Mapping[str, list[Any]]) -> None:
        self.asked: list[tuple[str, str]] = []
        self._names = {name.lower(): list(_records(records)) for name, records in data.items()}

    def find(self, name: str, kind: str, depth: int = 0) -> list[Any]:
        self.asked.append((name, kind))
        name = name.lower().removesuffix(".")
        if name not in self._names:
            if name.startswith("error."):
                raise NoAnswer(name)
            return []
        found: list[Any] = []
        silent = False
        for record_kind, value in self._names[name]:
            if record_kind == kind and value != "TIMEOUT":
                found.append(value)
            elif record_kind == "CNAME" and depth < 10:
                found += self.find(value, kind, depth + 1)
            elif value == "TIMEOUT" and record_kind in ("", kind):
                silent = True
        if silent and not found:
            raise NoAnswer(name)
        return found

    async def txt(self, name: str) -> tuple[bytes, ...]:
        return tuple(text.encode("utf-8") for text in self.find(name, "TXT"))

    async def addresses(self, name: str, version: int) -> tuple[str, ...]:
        found = self.find(name, "A" if version == 4 else "AAAA")
        return tuple(str(ipaddress.ip_address(address)) for address in found)

    async def mx(self, name: str) -> tuple[str, ...]:
        return tuple(host.removesuffix(".") for _, host in sorted(self.find(name, "MX"), key=lambda pair: pair[0]))

    async def names(self, ip: IPAddress) -> tuple[str, ...]:
        return tuple(name.removesuffix(".") for name in self.find(ip.reverse_pointer, "PTR"))


def _records(records: list[Any]) -> Iterator[tuple[str, Any]]:
    texts: list[str] = []
    has_own = False
    for record in records:
        if not isinstance(record, dict):
            yield "", record
            continue
        for kind, value in record.items():
            if kind in ("TXT", "SPF") and value != "TIMEOUT":
                text = value if isinstance(value, str) else "".join(value)
                has_own = has_own or kind == "TXT"
                if kind == "SPF":
                    texts.append(text)
                elif text != "NONE":
                    yield kind, text
            else:
                yield kind, value
                if kind == "SPF":
                    yield "TXT", value
    if not has_own:
        yield from (("TXT", text) for text in texts)


def ask(zone: Zone, ip: str, helo: str, sender: str, receiver: str = "unknown") -> Verdict:
    domain = sender.rpartition("@")[2] or helo
    client = ipaddress.ip_address(ip)
    client = getattr(client, "ipv4_mapped", None) or client
    question = Question(client, domain, sender or f"postmaster@{helo}", helo, receiver)
    verdict = start(check_host(question, zone))
    assert isinstance(verdict, Verdict), "a zone in memory makes nobody wait"
    return verdict


class SuiteTests(SynchronousTestCase):
    def test_rfc7208(self) -> None:
        wrong: list[str] = []
        number = 0
        with SUITE.open(encoding="utf-8") as file:
            scenarios = list(yaml.safe_load_all(file))
        for scenario in scenarios:
            zone = Zone(scenario["zonedata"])
            for name, case in scenario["tests"].items():
                number += 1
                verdict = ask(zone, case["host"], case["helo"], case["mailfrom"] or "", case.get("receiver", "receiver.test"))
                allowed = case["result"] if isinstance(case["result"], list) else [case["result"]]
                said = case.get("explanation", verdict.explanation)
                said = "" if said == "DEFAULT" else said
                if verdict.outcome.value not in allowed or verdict.explanation != said:
                    wrong.append(f"{scenario['description']}: {name}: {verdict}, not {allowed} {said!r}")
        self.assertEqual(wrong, [])
        self.assertEqual(number, 203)


CLIENT = "192.0.2.7"


def result(data: Mapping[str, list[Any]], ip: str = CLIENT, sender: str = "ann@a.test") -> Outcome:
    return ask(Zone(data), ip, "client.test", sender).outcome


class LimitTests(SynchronousTestCase):
    def chain(self, length: int, last: str = "v=spf1 +all") -> dict[str, list[Any]]:
        zones: dict[str, list[Any]] = {f"{n}.test": [{"TXT": f"v=spf1 include:{n + 1}.test -all"}] for n in range(length)}
        return {"a.test": [{"TXT": "v=spf1 include:0.test -all"}], **zones, f"{length}.test": [{"TXT": last}]}

    def test_ten_terms_that_ask(self) -> None:
        self.assertIs(result(self.chain(9)), Outcome.PASS)
        self.assertIs(result(self.chain(10)), Outcome.PERMERROR)

    def test_a_circle(self) -> None:
        zone = Zone({"a.test": [{"TXT": "v=spf1 include:a.test -all"}]})
        self.assertIs(ask(zone, CLIENT, "client.test", "ann@a.test").outcome, Outcome.PERMERROR)
        self.assertLessEqual(len(zone.asked), 11)
        self.assertIs(result({"a.test": [{"TXT": "v=spf1 redirect=a.test"}]}), Outcome.PERMERROR)

    def test_two_lookups_that_find_nothing(self) -> None:
        terms = "exists:x1.test exists:x2.test"
        self.assertIs(result({"a.test": [{"TXT": f"v=spf1 {terms} +all"}]}), Outcome.PASS)
        self.assertIs(result({"a.test": [{"TXT": f"v=spf1 {terms} a:x3.test +all"}]}), Outcome.PERMERROR)

    def test_hosts_of_mx(self) -> None:
        for number, expected in ((10, Outcome.FAIL), (11, Outcome.PERMERROR)):
            hosts = [{"MX": [n, f"mx{n}.test"]} for n in range(number)]
            addresses: dict[str, list[Any]] = {f"mx{n}.test": [{"A": "192.0.2.1"}] for n in range(number)}
            self.assertIs(result({"a.test": [{"TXT": "v=spf1 mx -all"}, *hosts], **addresses}), expected)

    def test_names_of_ptr(self) -> None:
        names = [{"PTR": f"n{n}.a.test"} for n in range(11)]
        zone = {"a.test": [{"TXT": "v=spf1 ptr -all"}], "7.2.0.192.in-addr.arpa": names}
        self.assertIs(result({**zone, "n9.a.test": [{"A": CLIENT}]}), Outcome.PASS)
        self.assertIs(result({**zone, "n10.a.test": [{"A": CLIENT}]}), Outcome.FAIL)

    def test_an_explanation_is_one_line_and_short(self) -> None:
        zone = {"a.test": [{"TXT": "v=spf1 -all exp=why.test"}], "why.test": [{"TXT": "x" * 900}]}
        self.assertEqual(ask(Zone(zone), CLIENT, "h.test", "a@a.test").explanation, "x" * MAX_EXPLANATION)


class RecordTests(SynchronousTestCase):
    def test_networks_around_addresses(self) -> None:
        zone: dict[str, list[Any]] = {"a.test": [{"TXT": "v=spf1 a/24//64 -all"}, {"A": "192.0.2.200"}, {"AAAA": "2001:db8::1"}]}
        self.assertIs(result(zone), Outcome.PASS)
        self.assertIs(result(zone, "192.0.3.7"), Outcome.FAIL)
        self.assertIs(result(zone, "2001:db8::ffff"), Outcome.PASS)
        self.assertIs(result(zone, "2001:db8:0:1::1"), Outcome.FAIL)
        self.assertIs(result(zone, "::ffff:192.0.2.9"), Outcome.PASS)

    @settings(max_examples=150, deadline=None)
    @given(st.one_of(st.binary(max_size=60), st.from_regex(rb"([+?~-]?(a|mx|ip4|ip6|exp|x=)[:/=%{}a-z0-9.-]{0,12} ?){0,4}")))
    def test_no_text_does_more_than_be_wrong(self, text: bytes) -> None:
        try:
            parse_record(b"v=spf1 " + text)
        except BadRecord as error:
            self.assertTrue(str(error))
