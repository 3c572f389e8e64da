"""Databases and other servers that tables and logins ask: E084, W084."""

from __future__ import annotations

from mailgate.config.codes.entry import Entry, lmtp

_ROUTES = "destination_in &people {\n    discard\n}\ndefault_destination {\n    reject\n}"


def _table(kind: str, *lines: str) -> str:
    """A file whose recipients are in such a table."""
    block = "".join(f"    {line}\n" for line in lines)
    return lmtp(_ROUTES, f"table.{kind} people {{\n{block}}}\n")


def _logins(line: str, top: str = "") -> str:
    """A file with clients that log in."""
    return lmtp(f"insecure_auth yes\n{line}\ndiscard", top)


_COUNTED = (
    "counter.redis together {{\n    {}\n}}\n"
    "limits all_of_us {{\n    shared &together\n    on_failure local\n    ip rate 20 1m\n}}\n"
    + lmtp("limits &all_of_us\ndiscard").replace("{", "{{").replace("}", "}}")
)
_SERVER = 'database postgres "host=db.example.org dbname=mail"'

CODES = {
    "E0840": Entry(
        "a query that can't be put",
        "A query is one statement with a placeholder for what is asked: {key}, {localpart} or {domain} in a table, {username}"
        " in a login. The database gets the value apart from the text, so the placeholder stands without quotes around it.",
        bad=_table("sql", _SERVER, "query \"SELECT 1 FROM users WHERE address = '{key}'\""),
        good=_table("sql", _SERVER, 'query "SELECT 1 FROM users WHERE address = {key}"'),
    ),
    "E0841": Entry(
        "a database that can't be asked",
        "A file of SQLite must be there, with the tables and columns of the query; PostgreSQL needs the library psycopg.",
        bad=_table("sql", "database sqlite people.sqlite", 'query "SELECT 1 FROM users WHERE address = {key}"'),
        good=_table("sql", _SERVER, 'query "SELECT 1 FROM users WHERE address = {key}"'),
    ),
    "E0842": Entry(
        "a service that can't be asked like this",
        "The URL begins with http:// or https://, has a placeholder for what is asked ({key}, {localpart} or {domain}) behind the"
        " host, and no password; `root_ca` names files with certificates, `header` lines are fields of HTTP.",
        bad=lmtp(_ROUTES, 'table.http people "https://people.example.org/"\n'),
        good=lmtp(_ROUTES, 'table.http people "https://people.example.org/{key}"\n'),
    ),
    "E0843": Entry(
        "this is no name of a zone",
        "A zone that lists something has a name with a dot in it at least.",
        bad=lmtp(_ROUTES, "table.dns people list\n"),
        good=lmtp(_ROUTES, "table.dns people list.example.org\n"),
    ),
    "E0844": Entry(
        "a Redis server that can't be asked like this",
        "What is looked for has a placeholder for what is asked ({key}, {localpart} or {domain}), and `root_ca` is a file, for a"
        " tls:// server.",
        bad=_table("redis", 'find string "alias"'),
        good=_table("redis", 'find string "alias:{key}"'),
    ),
    "E0845": Entry(
        "a Dovecot that can't be asked like this",
        "Its authentication socket is a unix socket, or a port of this machine: passwords go there in clear. A service's name is"
        " a word.",
        bad=_logins("auth dovecot tcp://192.0.2.1:12345"),
        good=_logins("auth dovecot unix:///run/dovecot/mailgate-auth"),
    ),
    "E0846": Entry(
        "an authorization server that can't be asked like this",
        "Tokens are sent to the introspection endpoint, so its URL begins with https://, but for http:// on this machine;"
        " `root_ca` names files with certificates.",
        bad=_logins("auth &tokens", 'auth.oauth2 tokens "http://login.example.org/introspect" {\n    client gateway secret\n}\n'),
        good=_logins(
            "auth &tokens", 'auth.oauth2 tokens "https://login.example.org/introspect" {\n    client gateway secret\n}\n'
        ),
    ),
    "E0847": Entry(
        "this can't be the prefix of keys",
        "All keys of a counter begin with it; braces have a meaning to a cluster.",
        bad=_COUNTED.format("prefix a{b}"),
        good=_COUNTED.format("prefix mail"),
    ),
    "E0848": Entry(
        "a PAM that can't be asked like this",
        "Linux-PAM (libpam.so.0, 1.4 or newer) must be there. A service is the name of a file in /etc/pam.d, in lower case, or in"
        " the `directory` that is named.",
        bad=_logins("auth pam {\n    service ../mail\n}"),
        good=_logins("auth pam {\n    service other\n}"),
    ),
    "W0840": Entry(
        "a secret goes over the network in clear",
        "Whoever is on the way reads it. Loopback addresses are exempt.",
        bad=lmtp(_ROUTES, 'table.http people "http://people.example.org/{key}" {\n    header Authorization secret\n}\n'),
        good=lmtp(_ROUTES, 'table.http people "https://people.example.org/{key}" {\n    header Authorization secret\n}\n'),
    ),
    "W0848": Entry(
        "a service that PAM does not know",
        "PAM asks the service `other` in its place, which most systems let nobody in by.",
        bad=_logins("auth pam {\n    service no-such-service\n}"),
        good=_logins("auth pam {\n    service other\n}"),
    ),
}
