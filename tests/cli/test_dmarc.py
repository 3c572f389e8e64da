"""`mailgate dmarc report`: what check.dmarc wrote, listed and made into reports, of one gateway or of several."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from mailgate.cli import main
from mailgate.modules._dmarc_file import COLUMNS, Count, write
from tests.support.dmarc_report_schema import checked, records


class ReportTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.file = self.directory / "dmarc.sqlite"
        self.configure("check {\ndmarc {\nreports {\nfile ./dmarc.sqlite\n}\n}\n}")
        self.put(self.file, "d.test", "192.0.2.1", 3)
        self.put(self.file, "e.test", "192.0.2.1", 1, day="2026-11-21", rua="")

    def configure(self, check: str, top: str = "") -> None:
        self.conf = self.directory / "mailgate.conf"
        self.conf.write_text(f"hostname mx.example.org\n{top}lmtp tcp://127.0.0.1:2524 {{\ntls off\n{check}\ndiscard\n}}\n")

    def put(
        self, file: Path, domain: str, source: str, messages: int, *, day: str = "2026-11-22", rua: str = "mailto:a@d.test"
    ) -> None:
        values = dict.fromkeys(COLUMNS, "none") | {
            "day": day,
            "policy_domain": domain,
            "source_ip": source,
            "override": "",
            "spf_scope": "mfrom",
            "dkim_results": "[]",
            "policy": '{"p": "none"}',
            "reports_to": rua,
        }
        write(str(file), {tuple(values.values()): Count(messages, 1, 2)}, 1000, 0.0)

    def report(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["dmarc", "report", "-c", str(self.conf), *arguments])

    def test_what_there_is(self) -> None:
        done = self.report()
        self.assertEqual(done.exit_code, 0, done.output)
        first, second = done.output.splitlines()
        self.assertEqual(first, "2026-11-21 e.test: 1 message, for nobody")
        self.assertEqual(second, "2026-11-22 d.test: 3 messages, for mailto:a@d.test")
        self.assertEqual(self.report("--day", "2026-11-21").output.count("\n"), 1)
        self.assertEqual(self.report("--domain", "d.test").output.count("\n"), 1)
        self.assertEqual(self.report("--domain", "x.test").output, "no reports\n")
        found = json.loads(self.report("--json", "--domain", "d.test").output)
        expected = {"day": "2026-11-22", "domain": "d.test", "messages": 3, "reports_to": ["mailto:a@d.test"]}
        self.assertEqual(found, {"version": 1, "reports": [expected]})

    def test_reports_are_written_and_never_over_others(self) -> None:
        done = self.report("--into", str(self.directory), "--domain", "d.test")
        self.assertEqual(done.exit_code, 0, done.output)
        (path,) = self.directory.glob("*.xml.gz")
        self.assertIn(str(path), done.output)
        self.assertRegex(path.name, r"^mx\.example\.org!d\.test!1795305600!1795391999![0-9a-f]{20}\.xml\.gz$")
        root = checked(gzip.decompress(path.read_bytes()))
        self.assertEqual([one[:2] for one in records(root)], [("192.0.2.1", 3)])
        self.assertEqual(root.findtext("report_metadata/email"), "postmaster@mx.example.org")
        again = self.report("--into", str(self.directory), "--domain", "d.test")
        self.assertEqual(again.exit_code, 1)
        self.assertIn("File exists", again.output)

    def test_several_gateways_add_up_and_one_file_counts_once(self) -> None:
        other = self.directory / "other.sqlite"
        self.put(other, "d.test", "192.0.2.1", 4)
        files = ("--file", str(self.file), "--file", str(other), "--file", str(other))
        self.assertIn("d.test: 7 messages", self.report(*files).output)

    def test_a_domain_that_is_no_name_of_a_file(self) -> None:
        self.put(self.file, "../x", "192.0.2.1", 1)
        self.assertEqual(self.report("--into", str(self.directory)).exit_code, 0)
        self.assertEqual(len(list(self.directory.glob("*.xml.gz"))), 2)
        self.assertEqual(list(self.directory.parent.glob("*.xml.gz")), [])

    def test_in_whose_name(self) -> None:
        reporting = "dmarc_report daily {\norganization Example\nfrom r@example.org\nmail {\ndiscard\n}\n}\n"
        self.configure("check {\ndmarc {\nreports {\nfile ./dmarc.sqlite\nsend &daily\n}\n}\n}", reporting)
        done = self.report("--into", str(self.directory), "--domain", "d.test")
        self.assertEqual(done.exit_code, 0, done.output)
        (path,) = self.directory.glob("example.org!*.xml.gz")
        self.assertEqual(checked(gzip.decompress(path.read_bytes())).findtext("report_metadata/org_name"), "Example")

    def test_what_can_not_be(self) -> None:
        for arguments, status, text in (
            (("--file", str(self.directory / "missing")), 2, "can't read"),
            (("--file", str(self.conf)), 2, "can't read"),
            (("--day", "yesterday"), 2, "is no day"),
            (("--into", str(self.directory / "missing"), "--domain", "d.test"), 1, "can't write"),
        ):
            done = self.report(*arguments)
            self.assertEqual(done.exit_code, status, done.output)
            self.assertIn(text, done.output)
        self.configure("")
        self.assertIn("no --file is given", self.report().output)
