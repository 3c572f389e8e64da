"""`store postgres` in a configuration: what is refused, and what is shown of it."""

from __future__ import annotations

import sys
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from mailgate.config.diagnostics import render
from mailgate.modules._queue_store import access_of
from mailgate.registry import Built, build
from mailgate.registry.effective import effective
from tests.support.postgres import needs_psycopg


def built(*lines: str) -> Built:
    block = "".join(f"    {line}\n" for line in lines)
    return build(
        "hostname mx.example.org\ntarget.smtp relay tcp://127.0.0.1:2526\n"
        f"target.queue outbound {{\n    target &relay\n{block}    bounce {{\n        discard\n    }}\n}}\n"
        "lmtp unix://lmtp.sock {\n    tls off\n    deliver_to &outbound\n}\n",
        environment={"MAIL_DSN": "host=db dbname=mail password=hunter2"},
    )


class StoreSettings(SynchronousTestCase):
    def test_without_the_library(self) -> None:
        gone = [name for name in sys.modules if name.startswith(("psycopg", "mailgate.queue.postgres"))]
        with mock.patch.dict(sys.modules, {"psycopg": None}):
            for name in gone:
                sys.modules.pop(name, None)
            sys.modules["psycopg"] = None  # type: ignore[assignment]
            found = built('store postgres "dbname=mail"')
        self.assertIsNone(found.configuration)
        text = render(found.diagnostics, color=False)
        self.assertIn("`store postgres` needs the Python library `psycopg`, which is not installed", text)
        self.assertIn("pip install 'mailgate[postgres]'", text)

    def test_the_dsn_is_a_secret(self) -> None:
        needs_psycopg()
        found = built("store postgres env:MAIL_DSN")
        assert found.configuration is not None
        (queue,) = [module for module in found.configuration.modules if module.name == "target.queue"]
        access = access_of(queue)
        self.assertEqual(access.dsn.reveal(), "host=db dbname=mail password=hunter2")
        self.assertEqual((access.schema, access.place), ("mailgate_outbound", "postgres db mail mailgate_outbound"))
        self.assertNotIn("hunter2", repr(access) + repr(queue.store) + str(effective(found.configuration)))
        broken = render(built('store postgres "host=db password=hunter2 what"').diagnostics, color=False)
        self.assertIn("E0763", broken)
        self.assertNotIn("hunter2", broken)
