"""Linux-PAM asked as it is, with modules that answer what they are told: which codes are yes, no and nothing."""

from __future__ import annotations

from ctypes import POINTER, byref, c_char_p, cast, pointer
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgate.clients.pam import (
    CONV_ERR,
    MAX_PROMPTS,
    SUCCESS,
    Pam,
    PamTrouble,
    PamVerdict,
    _libraries,
    _Message,
    _Response,
    _Transaction,
)
from tests.support.pam import CODES, SERVICE, Services, needs_pam

ECHO_OFF, ECHO_ON, ERROR, INFO, BINARY = 1, 2, 3, 4, 7


class PamTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.services = Services()
        self.addCleanup(self.services.close)

    def check(self, password: str = "secret", user: str = "ann", client_ip: str = "192.0.2.7") -> PamVerdict:
        return Pam(SERVICE, str(self.services.home)).check(user, password, client_ip)

    def outcome(self) -> str:
        try:
            verdict = self.check()
        except PamTrouble:
            return "trouble"
        return "yes" if verdict.user == "ann" and verdict.reason == "success" else f"no {verdict.reason}"

    def test_every_code_of_both_steps(self) -> None:
        for code, meaning in CODES.items():
            for step in ("auth", "account"):
                self.services.answer(**{step: code})
                self.assertEqual(self.outcome(), f"no {code}" if meaning == "no" else meaning, (step, code))

    def test_what_modules_are_told(self) -> None:
        self.services.scripted()
        self.assertEqual(self.check(), PamVerdict("ann", "success"))
        self.assertEqual(self.check(" p s\u00e4\\$", "b\u00e9n", "2001:db8::7"), PamVerdict("", "auth_err"))
        self.check(client_ip="")
        expected = [f"{SERVICE} ann 192.0.2.7 secret", f"{SERVICE} b\u00e9n 2001:db8::7  p s\u00e4\\$", f"{SERVICE} ann  secret"]
        self.assertEqual(self.services.asked, expected)

    def test_a_pause_is_told_and_not_slept(self) -> None:
        self.services.scripted(delay=1000)
        verdict = self.check("wrong")
        self.assertEqual((verdict.user, verdict.reason), ("", "auth_err"))
        self.assertTrue(450 < verdict.delay < 1550, verdict)  # PAM varies it by up to a half
        self.assertEqual(self.check().delay, 0)

    def test_what_can_not_be_asked(self) -> None:
        for text in (
            "auth required pam_no_such_module.so\naccount required pam_permit.so\n",
            "auth required pam_permit.so\n",
            "account required pam_permit.so\n",
            "",
        ):
            self.services.write(text)
            self.assertNotEqual(self.outcome(), "yes", text)
        with self.assertRaises(PamTrouble):
            Pam("nobody-knows-it", str(self.services.home)).check("ann", "secret", "")


class ConversationTests(SynchronousTestCase):
    def converse(self, transaction: _Transaction, *styles: int) -> tuple[int, list[bytes | None]]:
        messages = [_Message(style, b"?") for style in styles]
        pointers: Any = (POINTER(_Message) * max(len(messages), 1))(*map(pointer, messages))
        responses = POINTER(_Response)()
        code = transaction._conversation.function(len(messages), pointers, byref(responses), None)
        if code != SUCCESS:
            self.assertFalse(responses, "an answer beside an error")
            return code, []
        return code, [cast(responses[number].text, c_char_p).value for number in range(len(messages))]

    def test_prompts(self) -> None:
        needs_pam()
        for styles, expected in (
            ((ECHO_OFF,), [b"secret"]),
            ((ECHO_ON, ECHO_OFF), [b"ann", b"secret"]),
            ((INFO, ECHO_OFF, ERROR), [None, b"secret", None]),
            ((INFO,), [None]),
            ((), None),
            ((BINARY,), None),
            ((ECHO_OFF, BINARY), None),
            ((ECHO_OFF,) * MAX_PROMPTS, [b"secret"] * MAX_PROMPTS),
            ((ECHO_OFF,) * (MAX_PROMPTS + 1), None),
        ):
            code, answers = self.converse(_Transaction(*_libraries(), b"ann", b"secret", b""), *styles)
            self.assertEqual((code, answers), (CONV_ERR, []) if expected is None else (SUCCESS, expected), styles)

    def test_a_module_that_asks_for_ever(self) -> None:
        needs_pam()
        transaction = _Transaction(*_libraries(), b"ann", b"secret", b"")
        codes = [self.converse(transaction, ECHO_OFF)[0] for _ in range(MAX_PROMPTS + 2)]
        self.assertEqual(codes, [SUCCESS] * MAX_PROMPTS + [CONV_ERR] * 2)
