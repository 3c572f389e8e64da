"""A shared store in the hands of a further worker: it works, and shows nothing."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.trial.unittest import SynchronousTestCase

from mailgate.queue.partner import Partner
from mailgate.queue.store import Store
from mailgate.queue.survey import Summary, Survey

FOR_OPERATORS = {"browse", "page", "find", "survey", "summary", "summary_now"}


class Shared:
    """Says which method was asked for."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: name


class PartnerTests(SynchronousTestCase):
    def test_what_is_for_mail_reaches_the_store(self) -> None:
        partner: Any = Partner(Shared())
        methods = {name for name in vars(Store) if not name.startswith("_")} - FOR_OPERATORS
        self.assertIn("accept", methods)
        for name in methods:
            self.assertEqual(getattr(partner, name)(), name)

    def test_nothing_is_shown_twice(self) -> None:
        partner = Partner(Shared())
        self.assertEqual(self.successResultOf(ensureDeferred(partner.page(0, 10))), ([], None))
        self.assertEqual(self.successResultOf(ensureDeferred(partner.browse(0, 10))), [])
        self.assertEqual(self.successResultOf(ensureDeferred(partner.find("id"))), [])
        self.assertEqual(self.successResultOf(ensureDeferred(partner.survey(0.0))), Survey())
        self.assertEqual(self.successResultOf(ensureDeferred(partner.summary())), Summary())
        self.assertEqual(partner.summary_now(), Summary())
