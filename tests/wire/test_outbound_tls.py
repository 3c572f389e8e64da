"""TLS towards next hops: what is required is had or nothing is sent; what is optional falls back on a new connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from mailgate.outbound.tls_policy import TlsMode, decide
from mailgate.smtp.parameters import MailParameters
from mailgate.smtp.sasl import CHOICES, Offer, SaslClient, external
from mailgate.testing.nexthop import DROP, GARBAGE, HANG, NextHop, Say, Step, say
from mailgate.tls.client import ClientContext
from tests.outbound.support import CONTENT, Observed, deliver, endpoint_settings, make_hops, timeouts
from tests.support.certificates import authority, leaf

QUICK = timeouts(0.5, connect=1.0, final_dot=1.0, rset=0.5, quit=0.5)
NAME = "mx.example.org"
EXTENSIONS = (b"PIPELINING", b"8BITMIME", b"ENHANCEDSTATUSCODES", b"SIZE 0")


def _password(mechanism: str) -> Callable[[Offer, Any], SaslClient]:
    """What `auth MECHANISM u p` comes to."""
    return lambda offer, login: CHOICES[mechanism](offer, "u", "p")


class _Tls(TestCase):
    def hop(self, *names: str, authority_name: str = "trusted", **settings: Any) -> NextHop:
        """A next hop with a certificate for these names, or without TLS."""
        if names:
            issued = leaf(*names) if authority_name == "trusted" else authority(authority_name).issue(*names)
            settings["tls"] = issued.server
        hop = NextHop(**settings).listen(reactor)
        self.addCleanup(hop.close)
        return hop

    def engine(self, hop: NextHop, mode: TlsMode, observed: Observed | None = None, credentials: Any = None, **words: Any) -> Any:
        words.setdefault("names", (NAME,))
        implicit = hop.endpoint.startswith("tls:")
        settings = endpoint_settings(
            hop.endpoint,
            decision=decide(mode, implicit=implicit, sni=NAME, **words),
            requiretls_decision=decide(mode, implicit=implicit, requiretls=True, sni=NAME, **words),
            tls_context=ClientContext((authority().path,)),
            credentials=credentials,
            timeouts=QUICK,
        )
        engine = make_hops(reactor, settings, observed=observed)
        self.addCleanup(engine.pool.close)
        return engine

    async def refused(self, hop: NextHop, mode: TlsMode, enhanced: str, **words: Any) -> None:
        """The client hears 451 and no mail command was said, in clear or not."""
        heard, _ = await deliver(self.engine(hop, mode, **words))
        self.assertEqual([(reply.code, reply.enhanced) for reply in heard], [(451, enhanced)])
        for connection in hop.connections:
            self.assertEqual(set(connection.verbs) & {b"MAIL", b"RCPT", b"DATA", b"AUTH", b"HELO"}, set())

    async def passes(self, hop: NextHop, mode: TlsMode, *, secure: bool, connections: int = 1, **words: Any) -> Any:
        heard, replies = await deliver(self.engine(hop, mode, **words))
        self.assertEqual([reply.code for reply in (*heard, *replies)], [250, 250])
        self.assertEqual([(t.content, t.secure) for t in hop.transactions], [(CONTENT, secure)])
        self.assertEqual(len(hop.connections), connections)


class RequiredTest(_Tls):
    """`tls require_verify`, which is what `require_tls yes` makes of nothing."""

    async def test_the_right_certificate(self) -> None:
        hop = self.hop(NAME)
        await self.passes(hop, TlsMode.REQUIRE_VERIFY, secure=True)
        self.assertEqual(hop.connections[0].verbs[:3], [b"EHLO", b"STARTTLS", b"EHLO"])

    async def test_a_certificate_for_another_name(self) -> None:
        await self.refused(self.hop("other.example.org"), TlsMode.REQUIRE_VERIFY, "4.7.5")

    async def test_a_certificate_of_a_stranger(self) -> None:
        await self.refused(self.hop(NAME, authority_name="stranger"), TlsMode.REQUIRE_VERIFY, "4.7.5")

    async def test_without_starttls(self) -> None:
        await self.refused(self.hop(), TlsMode.REQUIRE_VERIFY, "4.7.4")

    async def test_starttls_refused(self) -> None:
        await self.refused(self.hop(NAME, script={Step.STARTTLS: say(b"454 4.7.0 no")}), TlsMode.REQUIRE_VERIFY, "4.7.4")

    async def test_starttls_answered_with_250(self) -> None:
        await self.refused(self.hop(NAME, script={Step.STARTTLS: say(b"250 fine")}), TlsMode.REQUIRE_VERIFY, "4.7.4")

    async def test_bytes_behind_the_220(self) -> None:
        hop = self.hop(NAME, script={Step.STARTTLS: say(b"220 go", b"250 injected")})
        await self.refused(hop, TlsMode.REQUIRE_VERIFY, "4.7.5")

    async def test_garbage_instead_of_a_handshake(self) -> None:
        hop = self.hop(extensions=(*EXTENSIONS, b"STARTTLS"), script={Step.STARTTLS: say(b"220 go")})
        await self.refused(hop, TlsMode.REQUIRE_VERIFY, "4.7.5")

    async def test_an_ehlo_that_is_refused_does_not_become_helo(self) -> None:
        hop = self.hop(script={Step.HELLO: say(b"502 5.5.1 what?")})
        await self.refused(hop, TlsMode.REQUIRE_VERIFY, "4.3.2")
        self.assertNotIn(b"HELO", hop.connections[0].verbs)

    async def test_require_takes_any_certificate(self) -> None:
        await self.passes(self.hop("other.example.org", authority_name="stranger"), TlsMode.REQUIRE, secure=True)

    async def test_require_without_starttls(self) -> None:
        await self.refused(self.hop(), TlsMode.REQUIRE, "4.7.4")

    async def test_the_next_endpoint_has_it(self) -> None:
        bad, good = self.hop(), self.hop(NAME)
        decision = decide(TlsMode.REQUIRE_VERIFY, names=(NAME,))
        context = ClientContext((authority().path,))
        engine = make_hops(
            reactor, *[endpoint_settings(hop.endpoint, decision=decision, tls_context=context) for hop in (bad, good)]
        )
        self.addCleanup(engine.pool.close)
        _, replies = await deliver(engine)
        self.assertEqual((replies[0].code, bad.mail_count, len(good.transactions)), (250, 0, 1))


class ImplicitTest(_Tls):
    """tls:// endpoints."""

    async def test_the_right_certificate(self) -> None:
        await self.passes(self.hop(NAME, implicit_tls=True), TlsMode.REQUIRE_VERIFY, secure=True)

    async def test_the_wrong_name(self) -> None:
        await self.refused(self.hop("x.example.org", implicit_tls=True), TlsMode.REQUIRE_VERIFY, "4.7.5")

    async def test_optional_is_encrypted_but_not_verified(self) -> None:
        await self.passes(self.hop("x.example.org", implicit_tls=True), TlsMode.OPTIONAL, secure=True)

    async def test_a_plain_server_behind_it(self) -> None:
        hop = self.hop()
        hop.endpoint = hop.endpoint.replace("tcp:", "tls:")
        heard, _ = await deliver(self.engine(hop, TlsMode.OPTIONAL))
        self.assertEqual((heard[0].code, heard[0].enhanced), (451, "4.7.5"))
        self.assertEqual(hop.mail_count, 0)


class OptionalTest(_Tls):
    async def test_used_where_offered_whatever_the_certificate(self) -> None:
        await self.passes(self.hop("x.example.org", authority_name="stranger"), TlsMode.OPTIONAL, secure=True)

    async def test_clear_where_not_offered(self) -> None:
        await self.passes(self.hop(), TlsMode.OPTIONAL, secure=False)

    async def test_clear_where_refused(self) -> None:
        await self.passes(self.hop(NAME, script={Step.STARTTLS: say(b"454 4.7.0 no")}), TlsMode.OPTIONAL, secure=False)

    async def test_a_handshake_that_fails_leads_to_a_new_connection_in_clear(self) -> None:
        hop = self.hop(extensions=(*EXTENSIONS, b"STARTTLS"), script={Step.STARTTLS: [say(b"220 go", then_drop=True)]})
        await self.passes(hop, TlsMode.OPTIONAL, secure=False, connections=2)
        self.assertNotIn(b"STARTTLS", hop.connections[1].verbs)

    async def test_a_handshake_that_hangs_too(self) -> None:
        await self.passes(
            self.hop(extensions=(*EXTENSIONS, b"STARTTLS"), script=_silent_after_220),
            TlsMode.OPTIONAL,
            secure=False,
            connections=2,
        )

    async def test_bytes_behind_the_220_are_never_followed_by_clear_text(self) -> None:
        await self.refused(self.hop(NAME, script={Step.STARTTLS: say(b"220 go", b"250 x")}), TlsMode.OPTIONAL, "4.7.5")

    async def test_disabled_does_not_ask(self) -> None:
        hop = self.hop(NAME)
        await self.passes(hop, TlsMode.DISABLED, secure=False)
        self.assertNotIn(b"STARTTLS", hop.connections[0].verbs)

    async def test_optional_verify_refuses_a_bad_certificate(self) -> None:
        await self.refused(self.hop("x.example.org"), TlsMode.OPTIONAL_VERIFY, "4.7.5")

    async def test_optional_verify_may_fall_back(self) -> None:
        hop = self.hop("x.example.org")
        await self.passes(hop, TlsMode.OPTIONAL_VERIFY, secure=False, connections=2, clear_after_bad_peer=True)

    async def test_capabilities_from_before_tls_are_forgotten(self) -> None:
        hop = self.hop(NAME, script=_less_after_tls)
        engine = self.engine(hop, TlsMode.OPTIONAL)
        await deliver(engine, parameters=MailParameters(size=100))
        self.assertEqual(hop.transactions[0].mail, b"<a@x.example>")

    async def test_ehlo_refused_becomes_helo(self) -> None:
        hop = self.hop(script={Step.HELLO: [say(b"502 5.5.1 what?")]})
        await self.passes(hop, TlsMode.OPTIONAL, secure=False)
        self.assertEqual(hop.connections[0].verbs[:2], [b"EHLO", b"HELO"])


def _silent_after_220(step: Step, connection: Any, line: bytes) -> Any:
    return say(b"220 go") if step is Step.STARTTLS else HANG if line[:1] == b"\x16" else None


def _less_after_tls(step: Step, connection: Any, line: bytes) -> Any:
    return Say(b"250 hop\r\n") if step is Step.HELLO and connection.tls else None


class RequireTlsMessageTest(_Tls):
    """RFC 8689: the message asks for it, whatever the mode."""

    async def send(self, hop: NextHop) -> Any:
        heard, replies = await deliver(self.engine(hop, TlsMode.OPTIONAL), parameters=MailParameters(requiretls=True))
        return (replies or heard)[0]

    async def test_passed_on(self) -> None:
        hop = self.hop(NAME, extensions=(*EXTENSIONS, b"REQUIRETLS"))
        self.assertEqual((await self.send(hop)).code, 250)
        self.assertIn(b"REQUIRETLS", hop.transactions[0].mail)
        self.assertTrue(hop.transactions[0].secure)

    async def test_keyword_missing(self) -> None:
        reply = await self.send(self.hop(NAME))
        self.assertEqual((reply.code, reply.enhanced), (550, "5.7.30"))

    async def test_no_authenticated_tls(self) -> None:
        reply = await self.send(self.hop("x.example.org", extensions=(*EXTENSIONS, b"REQUIRETLS")))
        self.assertEqual((reply.code, reply.enhanced), (550, "5.7.10"))

    async def test_does_not_use_a_connection_of_another_message(self) -> None:
        hop = self.hop("x.example.org", extensions=(*EXTENSIONS, b"REQUIRETLS"))
        engine = self.engine(hop, TlsMode.OPTIONAL)
        await deliver(engine)
        heard, _ = await deliver(engine, parameters=MailParameters(requiretls=True))
        self.assertEqual(heard[0].enhanced, "5.7.10")
        self.assertEqual(len(hop.transactions), 1)


class AuthTest(_Tls):
    """Credentials go where they may, by the mechanism that was configured, and nothing goes without them."""

    def settings(self, *mechanisms: bytes, **script: Any) -> dict[str, Any]:
        return {"extensions": (*EXTENSIONS, b"AUTH " + b" ".join(mechanisms)), **script}

    async def test_plain_over_tls(self) -> None:
        hop = self.hop(NAME, **self.settings(b"PLAIN"))
        await self.passes(hop, TlsMode.REQUIRE_VERIFY, secure=True, credentials=_password("plain"))
        self.assertIn(b"AUTH PLAIN AHUAcA==", hop.connections[0].commands)
        self.assertNotIn(b"AUTH", bytes(hop.connections[0].clear))

    async def test_login(self) -> None:
        hop = self.hop(NAME, **self.settings(b"LOGIN"))
        await self.passes(hop, TlsMode.REQUIRE_VERIFY, secure=True, credentials=_password("login"))

    async def test_external(self) -> None:
        hop = self.hop(NAME, **self.settings(b"EXTERNAL"))
        await self.passes(hop, TlsMode.REQUIRE_VERIFY, secure=True, credentials=lambda offer, login: external(offer))
        self.assertIn(b"AUTH EXTERNAL =", hop.connections[0].commands)

    async def check_failure(self, hop: NextHop) -> None:
        heard, _ = await deliver(self.engine(hop, TlsMode.REQUIRE_VERIFY, credentials=_password("plain")))
        self.assertEqual((heard[0].code, heard[0].enhanced), (451, "4.7.0"))
        self.assertEqual(hop.mail_count, 0)

    async def test_refused(self) -> None:
        await self.check_failure(self.hop(NAME, **self.settings(b"PLAIN", script={Step.AUTH: say(b"535 5.7.8 no")})))

    async def test_not_offered(self) -> None:
        await self.check_failure(self.hop(NAME, **self.settings(b"LOGIN")))

    async def test_no_credentials_in_clear_in_any_mode(self) -> None:
        hop = self.hop(**self.settings(b"PLAIN"))
        engine = self.engine(hop, TlsMode.OPTIONAL, credentials=_password("plain"))
        decision = decide(TlsMode.OPTIONAL, credentials=True)
        self.assertFalse(decision.allow_clear)
        settings = endpoint_settings(hop.endpoint, decision=decision, credentials=_password("plain"), tls_context=ClientContext())
        careful = make_hops(reactor, settings)
        self.addCleanup(careful.pool.close)
        heard, _ = await deliver(careful)
        self.assertEqual((heard[0].code, heard[0].enhanced), (451, "4.7.4"))
        await hop.when(lambda: hop.connections[0].closed)
        self.assertEqual(hop.connections[0].verbs, [b"EHLO", b"QUIT"])
        await deliver(engine)  # the same without the rule, which is what auth_insecure makes of it
        self.assertIn(b"AUTH", hop.connections[1].verbs)


class DropTest(_Tls):
    async def test_dropped_and_garbled_steps_are_temporary(self) -> None:
        for step in (Step.HELLO, Step.STARTTLS, Step.AUTH):
            for action in (DROP, GARBAGE, HANG):
                hop = self.hop(NAME, extensions=(*EXTENSIONS, b"AUTH PLAIN"), script={step: action})
                heard, _ = await deliver(self.engine(hop, TlsMode.REQUIRE_VERIFY, credentials=_password("plain")))
                self.assertEqual(heard[0].code, 451, f"{step} {action}")
                self.assertEqual(hop.mail_count, 0)
