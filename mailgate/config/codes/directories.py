"""LDAP directories: E083, W083."""

from __future__ import annotations

from mailgate.config.codes.entry import Entry, lmtp

_URL = "urls ldaps://ldap.example.org"


def _table(*lines: str) -> str:
    """A file whose recipients are in a directory."""
    block = "".join(f"    {line}\n" for line in lines)
    return lmtp(
        "destination_in &people {\n    discard\n}\ndefault_destination {\n    reject\n}", f"table.ldap people {{\n{block}}}\n"
    )


def _auth(*lines: str) -> str:
    """A file whose users are in a directory."""
    block = "".join(f"    {line}\n" for line in lines)
    return lmtp("insecure_auth yes\nauth &staff\ndiscard", f"auth.ldap staff {{\n{block}}}\n")


CODES = {
    "E0830": Entry(
        "a filter, a DN or an attribute that LDAP does not know",
        "A filter stands in parentheses, `(&(objectClass=person)(mail={key}))`, and has a placeholder for what is asked. A table"
        " knows {key}, {localpart} and {domain}, logins know {username}.",
        bad=_table(_URL, 'filter "(mail={address})"'),
        good=_table(_URL, 'filter "(mail={key})"'),
    ),
    "E0831": Entry(
        "it is not said whose entry a user's is",
        "`filter` searches for it, `dn_template` says its name; one of them is needed. `user_attribute` is read from what was"
        " found.",
        bad=_auth(_URL),
        good=_auth(_URL, 'base_dn "ou=people,dc=example,dc=org"', 'filter "(uid={username})"'),
    ),
    "E0832": Entry(
        "a directory that can't be reached like this",
        "`starttls` is for ldap:// servers, ldaps:// ones have TLS from the first octet; `bind external` shows `cert` with its"
        " `key`; `bind plain` has a name and a password; and the files of `tls_client` must be there.",
        bad=_table(_URL, "starttls yes", 'filter "(mail={key})"'),
        good=_table("urls ldap://ldap.example.org", "starttls yes", 'filter "(mail={key})"'),
    ),
    "W0830": Entry(
        "passwords go to a directory in clear",
        "Whoever is on the way reads the password of `bind`, or those of the users. Loopback addresses are exempt.",
        bad=_auth("urls ldap://ldap.example.org", 'dn_template "uid={username},dc=example,dc=org"'),
        good=_auth("urls ldap://ldap.example.org", "starttls yes", 'dn_template "uid={username},dc=example,dc=org"'),
    ),
}
