"""PAM services of a test's own, in a directory, with the modules that come with Linux-PAM (Debian: libpam-modules)."""

from __future__ import annotations

import glob
import tempfile
from pathlib import Path

from mailgate.clients.pam import LIBRARY, Pam, PamMissing
from tests.support.servers import missing

SERVICE = "mail-test"
CODES = {
    "success": "yes", "perm_denied": "no", "auth_err": "no", "user_unknown": "no", "maxtries": "no", "new_authtok_reqd": "no",
    "acct_expired": "no", "cred_expired": "no", "authtok_expired": "no",
    "open_err": "trouble", "symbol_err": "trouble", "service_err": "trouble", "system_err": "trouble", "buf_err": "trouble",
    "cred_insufficient": "trouble", "authinfo_unavail": "trouble", "session_err": "trouble", "cred_unavail": "trouble",
    "cred_err": "trouble", "no_module_data": "trouble", "conv_err": "trouble", "authtok_err": "trouble",
    "authtok_recover_err": "trouble", "authtok_lock_busy": "trouble", "authtok_disable_aging": "trouble",
    "try_again": "trouble", "abort": "trouble", "module_unknown": "trouble", "bad_item": "trouble", "conv_again": "trouble",
    "incomplete": "trouble",
}  # fmt: skip
"""What each code of Linux-PAM means, by the name that pam_debug has for it."""
OTHERS = """\
auth [success=2 default=ignore] pam_exec.so quiet expose_authtok {script}
auth requisite pam_faildelay.so delay={delay}
auth requisite pam_deny.so
auth required pam_permit.so
account required pam_permit.so
"""
SCRIPT = """\
#!/bin/sh
password=$(tr -d '\\000')
echo "$PAM_SERVICE $PAM_USER $PAM_RHOST $password" >>{home}/asked
while [ "$password" = slow ] && [ -e {home}/hold ]; do sleep 0.02; done
[ "$password" = secret ]
"""


def needs_pam() -> None:
    try:
        Pam(SERVICE)
    except PamMissing:
        missing(LIBRARY, "libpam0g")
    if not any(glob.glob(f"{place}/security/pam_debug.so") for place in ("/lib/*", "/usr/lib/*", "/lib", "/usr/lib")):
        missing("pam_debug.so", "libpam-modules")


class Services:
    """A directory with one service, `SERVICE`; what it does is said by `write`, `answer` or `scripted`."""

    def __init__(self) -> None:
        needs_pam()
        self._directory = tempfile.TemporaryDirectory(prefix="mailgate-pam-")
        self.home = Path(self._directory.name)
        self.answer()

    def write(self, text: str) -> None:
        """At once: PAM reads it at each login."""
        new = self.home / "new"
        new.write_text(text)
        new.rename(self.home / SERVICE)

    def answer(self, auth: str = "success", account: str = "success") -> None:
        """Codes, by the names of pam_debug."""
        self.write(f"auth required pam_debug.so auth={auth}\naccount required pam_debug.so acct={account}\n")

    def scripted(self, delay: float = 0) -> None:
        """The password is `secret`, or `slow`, which is wrong, but judged only when `let_go` was called."""
        script = self.home / "script"
        script.write_text(SCRIPT.format(home=self.home))
        script.chmod(0o755)
        (self.home / "hold").touch()
        self.write(OTHERS.format(script=script, delay=round(delay * 1e6)))

    def let_go(self) -> None:
        (self.home / "hold").unlink(missing_ok=True)

    @property
    def asked(self) -> list[str]:
        """What the script was told: service, user, address and password."""
        place = self.home / "asked"
        return place.read_text().splitlines() if place.exists() else []

    def close(self) -> None:
        self.let_go()
        self._directory.cleanup()
