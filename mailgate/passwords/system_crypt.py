"""The system's crypt(3) for sha512-crypt, sha256-crypt and yescrypt: what /etc/shadow, `mkpasswd` and `doveadm pw` write.

The standard library's `crypt` is gone since Python 3.13, and doing these hashes in Python would hold the interpreter's lock for
each login. So libcrypt is called: `crypt_r` of glibc, libxcrypt and musl have one signature, keep all state in the caller's
memory and run without the lock (ctypes releases it).
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

_LIBRARIES = ("libcrypt.so.1", "libcrypt.so.2", "libc.so", None)
"""glibc and libxcrypt's old name, libxcrypt's new one, musl (crypt is in its libc), what the process has anyway."""
_STATE_SIZE = 1 << 18
"""Of struct crypt_data: 128 KiB in glibc, 32 KiB in libxcrypt; all zero is its first state."""


class NoSystemCrypt(Exception):
    """This system has no crypt_r."""


@cache
def _crypt_r() -> Any:
    for name in _LIBRARIES:
        try:
            function = ctypes.CDLL(name).crypt_r
        except (OSError, AttributeError):
            continue
        function.restype = ctypes.c_char_p
        function.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p)
        return function
    raise NoSystemCrypt("this system has no crypt_r in libcrypt or libc")


def crypt(password: str, setting: str) -> str | None:
    """The hash of a password with the salt and parameters of ``setting``, which may be a whole hash; None if the system does not
    know its method. Blocking.

    :raises NoSystemCrypt: there is no library. :raises ValueError: NUL, which would end the password early.
    """
    if "\0" in password or "\0" in setting:
        raise ValueError("NUL in a password or hash")
    state = ctypes.create_string_buffer(_STATE_SIZE)
    result = _crypt_r()(password.encode(), setting.encode(), state)
    if not result or result.startswith(b"*"):  # libxcrypt says *0 or *1 for what it can't do
        return None
    return str(result.decode("ascii", "replace"))
