"""Passwords judged by Linux-PAM, in this process: the blocking half of `auth.pam`, called in threads.

`Pam.check` is one PAM transaction: start, authenticate, account management, end. No session is opened and no credentials are set:
a gateway acts as nobody. The contract:

- PAM is told the client's address (PAM_RHOST), since pam_access, pam_faillock and logs go by it, and that an account without a
  password lets nobody in (PAM_DISALLOW_NULL_AUTHTOK).
- Each prompt without echo is answered with the password, each with echo with the name; what modules want to tell people goes
  nowhere. A prompt of a kind that we don't know, or too many of them, end the conversation.
- `VERDICTS` are the codes that are an answer. Every other one, known or not, is `PamTrouble`: nobody could say.
- The pause that modules want after a failure (pam_fail_delay(3)) is not slept here but part of the answer, so that wrong
  passwords hold no thread.

Numbers and structures are those of Linux-PAM 1.x; OpenPAM has others, so nothing but `libpam.so.0` is loaded.
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_size_t, c_uint, c_void_p, cast, sizeof
from dataclasses import dataclass
from functools import cache
from typing import Any

LIBRARY = "libpam.so.0"
MAX_RESPONSE = 511
"""Octets of a response, without its NUL: PAM_MAX_RESP_SIZE is 512, and modules may cut what is longer."""
MAX_PROMPTS = 32
"""Of one conversation: PAM_MAX_NUM_MSG is that for one call."""

SUCCESS, CONV_ERR = 0, 19
VERDICTS = {
    SUCCESS: "success",
    6: "perm_denied",  # pam_access, pam_listfile: not from there, not at this hour, not this user
    7: "auth_err",
    10: "user_unknown",
    11: "maxtries",
    12: "new_authtok_reqd",  # the password must be changed first, which can't be done over SMTP
    13: "acct_expired",
    16: "cred_expired",
    27: "authtok_expired",
}
"""What PAM says of a user, by code; all but the first mean no."""

_DISALLOW_NULL_AUTHTOK, _SILENT = 0x1, 0x8000
_FLAGS = _DISALLOW_NULL_AUTHTOK | _SILENT
_USER, _RHOST, _FAIL_DELAY = 2, 4, 10
_ECHO_OFF, _ECHO_ON, _ERROR, _INFO = 1, 2, 3, 4


class PamTrouble(Exception):
    """PAM could not say."""


class PamMissing(Exception):
    """There is no Linux-PAM here."""


@dataclass(frozen=True, slots=True)
class PamVerdict:
    """``user``: the name that PAM has for whom it let in, "" if it did not, for the ``reason``, a value of `VERDICTS`. ``delay``:
    seconds for which modules want the client to wait."""

    user: str
    reason: str
    delay: float = 0.0


class _Message(Structure):
    _fields_ = (("style", c_int), ("text", c_char_p))


class _Response(Structure):
    _fields_ = (("text", c_void_p), ("code", c_int))


_Converse = CFUNCTYPE(c_int, c_int, POINTER(POINTER(_Message)), POINTER(POINTER(_Response)), c_void_p)
_Delay = CFUNCTYPE(None, c_int, c_uint, c_void_p)


class _Conversation(Structure):
    _fields_ = (("function", _Converse), ("data", c_void_p))


@cache
def _libraries() -> tuple[Any, Any]:
    """libpam and the C library, with the types of what is called.

    :raises PamMissing:"""
    try:
        pam, libc = ctypes.CDLL(LIBRARY), ctypes.CDLL(None)
        text, handle = c_char_p, c_void_p
        for function, arguments in (
            (pam.pam_start, (text, text, POINTER(_Conversation), POINTER(c_void_p))),
            (pam.pam_start_confdir, (text, text, POINTER(_Conversation), text, POINTER(c_void_p))),
            (pam.pam_set_item, (handle, c_int, c_void_p)),
            (pam.pam_get_item, (handle, c_int, POINTER(c_void_p))),
            (pam.pam_authenticate, (handle, c_int)),
            (pam.pam_acct_mgmt, (handle, c_int)),
            (pam.pam_end, (handle, c_int)),
        ):
            function.argtypes, function.restype = arguments, c_int
    except (OSError, AttributeError) as error:
        raise PamMissing(f"Linux-PAM 1.4 or newer can't be loaded: {error}") from error
    pam.pam_strerror.argtypes, pam.pam_strerror.restype = (c_void_p, c_int), c_char_p
    libc.calloc.argtypes, libc.calloc.restype = (c_size_t, c_size_t), c_void_p
    libc.strdup.argtypes, libc.strdup.restype = (c_char_p,), c_void_p
    return pam, libc


class Pam:
    """One service. ``directory``: where its file is, in place of those that the library looks at."""

    def __init__(self, service: str, directory: str = "") -> None:
        """:raises PamMissing: it can't be asked here."""
        self._pam, self._libc = _libraries()
        self._service = service.encode()
        self._directory = directory.encode()

    def check(self, user: str, password: str, client_ip: str) -> PamVerdict:
        """:raises PamTrouble: nobody could say."""
        return _Transaction(self._pam, self._libc, user.encode(), password.encode(), client_ip.encode()).run(
            self._service, self._directory
        )


class _Transaction:
    """What PAM may ask, and what it says. The callbacks live as long as this does."""

    def __init__(self, pam: Any, libc: Any, user: bytes, password: bytes, client_ip: bytes) -> None:
        self._pam = pam
        self._libc = libc
        self._user = user
        self._answers = {_ECHO_OFF: password, _ECHO_ON: user, _ERROR: None, _INFO: None}
        self._client_ip = client_ip
        self._handle = c_void_p()
        self._prompts = 0
        self._delay = 0.0
        self._converse = _Converse(self._on_converse)
        self._on_fail = _Delay(self._on_delay)
        self._conversation = _Conversation(self._converse, None)

    def run(self, service: bytes, directory: bytes) -> PamVerdict:
        begin = (service, self._user, byref(self._conversation))
        handle = byref(self._handle)
        started = self._pam.pam_start_confdir(*begin, directory, handle) if directory else self._pam.pam_start(*begin, handle)
        if started != SUCCESS:
            raise self._trouble("start", started)
        code = SUCCESS
        try:
            code = self._set(_RHOST, self._client_ip) if self._client_ip else SUCCESS
            code = code or self._set(_FAIL_DELAY, cast(self._on_fail, c_void_p))
            if code != SUCCESS:
                raise self._trouble("set_item", code)
            for step in ("authenticate", "acct_mgmt"):
                code = getattr(self._pam, f"pam_{step}")(self._handle, _FLAGS)
                if code not in VERDICTS:
                    raise self._trouble(step, code)
                if code != SUCCESS:
                    return PamVerdict("", VERDICTS[code], self._delay)
            return PamVerdict(self._name(), VERDICTS[SUCCESS])
        finally:
            self._pam.pam_end(self._handle, code)

    def _set(self, item: int, value: Any) -> int:
        return int(self._pam.pam_set_item(self._handle, item, value))

    def _name(self) -> str:
        """Modules may have changed it."""
        found = c_void_p()
        code = self._pam.pam_get_item(self._handle, _USER, byref(found))
        name = cast(found, c_char_p).value
        if code != SUCCESS or not name:
            raise self._trouble("get_item", code)
        return name.decode()

    def _trouble(self, step: str, code: int) -> PamTrouble:
        text = (self._pam.pam_strerror(self._handle, code) or b"").decode("utf-8", "replace")
        return PamTrouble(f"pam_{step}: {text} ({code})")

    # Called by PAM: nothing may be raised here

    def _on_delay(self, code: int, microseconds: int, data: Any) -> None:
        if code != SUCCESS:
            self._delay = max(self._delay, microseconds / 1e6)

    def _on_converse(self, count: int, messages: Any, responses: Any, data: Any) -> int:
        self._prompts += count
        styles = [messages[number].contents.style for number in range(count)] if 0 < count <= MAX_PROMPTS else []
        if not styles or self._prompts > MAX_PROMPTS or any(style not in self._answers for style in styles):
            return CONV_ERR
        place = self._libc.calloc(count, sizeof(_Response))  # PAM's to free, and each text too
        if not place:
            return CONV_ERR
        answers = cast(place, POINTER(_Response))
        for number, style in enumerate(styles):
            text = self._answers[style]
            answers[number].text = self._libc.strdup(text) if text is not None else None
        responses[0] = answers
        return SUCCESS
