"""The table of TLS decisions, row by row, and what the configuration's words come to."""

from __future__ import annotations

import itertools

from twisted.trial.unittest import SynchronousTestCase

from mailgate.outbound.tls_policy import OnFailure, PolicyError, Start, TlsMode, TlsWords, decide, effective_mode

OFF, OPT, OPTV, REQ, REQV = TlsMode
CLEAR, NEXT, IGNORE = OnFailure.CLEAR, OnFailure.NEXT, OnFailure.IGNORE


class DecideTest(SynchronousTestCase):
    def test_the_table(self) -> None:
        for mode, row in {
            OFF: (Start.NEVER, True, NEXT, NEXT),
            OPT: (Start.OFFERED, True, CLEAR, IGNORE),
            OPTV: (Start.OFFERED, True, CLEAR, NEXT),
            REQ: (Start.ALWAYS, False, NEXT, IGNORE),
            REQV: (Start.ALWAYS, False, NEXT, NEXT),
        }.items():
            decision = decide(mode)
            self.assertEqual((decision.start, decision.allow_clear, decision.on_handshake, decision.on_bad_peer), row, mode)

    def test_where_tls_is_required_nothing_leads_to_clear_text(self) -> None:
        for mode, implicit, requiretls, credentials, after in itertools.product(TlsMode, *[(False, True)] * 4):
            if mode is OFF and (implicit or credentials):
                continue  # errors at load, but for unix sockets, which have no decision to make
            decision = decide(mode, implicit=implicit, requiretls=requiretls, credentials=credentials, clear_after_bad_peer=after)
            if mode in (REQ, REQV) or implicit or requiretls or credentials:
                self.assertFalse(decision.allow_clear)
                self.assertFalse(decision.clear_retry)
                self.assertIn(decision.start, (Start.ALWAYS, Start.IMPLICIT))
            if mode is REQV or requiretls:
                self.assertIs(decision.on_bad_peer, NEXT)

    def test_verify_failure_clear_is_for_optional_verify(self) -> None:
        self.assertIs(decide(OPTV, clear_after_bad_peer=True).on_bad_peer, CLEAR)
        self.assertIs(decide(REQV, clear_after_bad_peer=True).on_bad_peer, NEXT)


TCP: list[tuple[TlsWords, TlsMode | str]] = [
    (TlsWords("tcp"), OPT),
    (TlsWords("tcp", default=OFF), OFF),
    (TlsWords("tcp", attempt_starttls=True, default=OFF), OPT),
    (TlsWords("tcp", attempt_starttls=False), OFF),
    (TlsWords("tcp", OPT), OPT),
    (TlsWords("tcp", OFF, attempt_starttls=False), OFF),
    (TlsWords("tcp", REQ, attempt_starttls=False), "attempt_starttls"),
    (TlsWords("tcp", OFF, attempt_starttls=True), "attempt_starttls"),
    (TlsWords("tcp", require_tls=True), REQV),
    (TlsWords("tcp", require_tls=True, default=OFF), REQV),
    (TlsWords("tcp", OPT, require_tls=True), REQV),
    (TlsWords("tcp", OPTV, require_tls=True), REQV),
    (TlsWords("tcp", REQ, require_tls=True), REQ),
    (TlsWords("tcp", REQV, require_tls=True), REQV),
    (TlsWords("tcp", OFF, require_tls=True), "tls"),
    (TlsWords("tcp", attempt_starttls=False, require_tls=True), "attempt_starttls"),
    (TlsWords("tcp", sends_secret=True), REQV),
    (TlsWords("tcp", REQ, sends_secret=True), "tls"),
    (TlsWords("tcp", OPT, sends_secret=True), "tls"),
    (TlsWords("tcp", attempt_starttls=False, sends_secret=True), "attempt_starttls"),
    (TlsWords("tcp", OPT, sends_secret=True, auth_insecure=True), OPT),
    (TlsWords("tcp", sends_secret=True, auth_insecure=True), OPT),
    (TlsWords("tls"), REQV),
    (TlsWords("tls", default=OFF), REQV),
    (TlsWords("tls", attempt_starttls=False), REQV),
    (TlsWords("tls", OPT), OPT),
    (TlsWords("tls", REQ), REQ),
    (TlsWords("tls", OFF), "tls"),
    (TlsWords("tls", OPT, require_tls=True), REQV),
    (TlsWords("tls", REQ, sends_secret=True), "tls"),
    (TlsWords("unix"), OFF),
    (TlsWords("unix", REQV, sends_secret=True), OFF),
    (TlsWords("unix", require_tls=True), "require_tls"),
]


class EffectiveModeTest(SynchronousTestCase):
    def test_the_table(self) -> None:
        for words, expected in TCP:
            try:
                found: TlsMode | str = effective_mode(words)
            except PolicyError as error:
                found = error.directive
            self.assertEqual(found, expected, words)
