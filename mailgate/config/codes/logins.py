"""Users, passwords and logins: E078, W078."""

from __future__ import annotations

from mailgate.config.codes.entry import Entry, lmtp


def _logins(lines: str, provider: str = "static") -> str:
    """A file with a listener and a provider of these lines."""
    block = "".join(f"    {line}\n" for line in lines.splitlines())
    kind, _, rest = provider.partition(" ")
    head = f"auth.{kind} users {rest}".rstrip() + (f" {{\n{block}}}\n" if block else "\n")
    return lmtp("insecure_auth yes\nauth &users\ndiscard", head)


_USERS = "auth.static users {\n    entry alice secret\n}\n"


def _forward(line: str, target: str = "&next") -> str:
    """A file with a listener that passes logins on."""
    queue = "target.queue later {\n    target &next\n    bounce {\n        discard\n    }\n}\n" if target == "&later" else ""
    top = f"{_USERS}target.smtp next {{\n    targets tls://mx.example.net\n    auth forward\n}}\n{queue}"
    body = ["insecure_auth yes", "auth &users", *([line] if line else []), f"deliver_to {target}"]
    return lmtp("\n".join(body), top)


def _smtp_auth(line: str) -> str:
    """A file with a listener whose users another server knows."""
    top = f"target.smtp store {{\n    targets tcp://mx.example.net:587\n    {line}\n}}\nauth.smtp users &store\n"
    return lmtp("insecure_auth yes\nauth &users\ndiscard", top)


CODES = {
    "E0780": Entry(
        "a user that can't be one",
        "Names of users are not empty, have no control characters, and stand once in an `auth.static`.",
        bad=_logins("entry alice secret\nentry alice other"),
        good=_logins("entry alice secret\nentry bob other"),
    ),
    "E0781": Entry(
        "a secret that can't be used",
        "It begins like a hash but is damaged, of a method that is no protection any more (MD5, SHA-1), or one that this system"
        " does not know. A password that begins like a hash is written `{PLAIN}…`.",
        bad=_logins("entry alice $apr1$saltsalt$Rq6TPYKPZ4G5ZxVyrQGXo0"),
        good=_logins("entry alice secret"),
    ),
    "E0782": Entry(
        "a file of users that can't be used",
        "The file of `auth.file` is missing, or the line is no `user:hash`, or its secret can't be used (see E0781) or is of a"
        " form that `schemes` does not have.",
        bad=_logins("", "file ./users"),
        good=_logins("", "file ./users").replace("./users", "./users {\n    schemes plain\n}", 1),
        files={"users": "alice:secret\n"},
    ),
    "E0783": Entry(
        "everybody must log in, and nobody can",
        "`auth_required`, which `submission` blocks have by default, needs `auth`, and the command AUTH.",
        bad="submission tcp://127.0.0.1:2587 {\n    tls self_signed\n    discard\n}\n",
        good="submission tcp://127.0.0.1:2587 {\n    tls self_signed\n    auth static {\n        entry alice secret\n    }\n"
        "    discard\n}\n",
    ),
    "E0784": Entry(
        "no mechanism is left",
        "`auth_mechanisms` narrows what `auth` can judge: with hashes in place of passwords that is PLAIN and LOGIN.",
        bad=lmtp("tls self_signed\nauth static {\n    entry alice secret\n}\nauth_mechanisms EXTERNAL\ndiscard"),
        good=lmtp("tls self_signed\nauth static {\n    entry alice secret\n}\nauth_mechanisms PLAIN\ndiscard"),
    ),
    "E0785": Entry(
        "nobody can log in without TLS",
        "AUTH comes only after TLS, and this listener has none: give it a certificate, or say `insecure_auth yes`.",
        bad=lmtp("auth static {\n    entry alice secret\n}\ndiscard"),
        good=lmtp("insecure_auth yes\nauth static {\n    entry alice secret\n}\ndiscard"),
    ),
    "E0787": Entry(
        "a mechanism without a password, where passwords are passed on",
        "A target with `auth forward` logs in as the client, so its listeners can offer PLAIN and LOGIN only.",
        bad=_forward("auth_mechanisms PLAIN SCRAM-SHA-256"),
        good=_forward("auth_mechanisms PLAIN"),
    ),
    "E0788": Entry(
        "logins are passed on, and there are none",
        "A target with `auth forward` refuses clients that have not logged in; this listener has no `auth` with passwords.",
        bad=_forward("").replace("    auth &users\n", "").replace("    insecure_auth yes\n", "").replace(_USERS, ""),
        good=_forward(""),
    ),
    "E0789": Entry(
        "a login behind a queue",
        "A queue delivers when the client has long gone, and keeps no passwords: its target needs credentials of its own.",
        bad=_forward("", "&later"),
        good=_forward(""),
    ),
    "E0790": Entry(
        "a target that passwords can't be tried at",
        "`auth.smtp` logs in at the endpoints of a target.smtp with the password of the client, so TLS with a verified name (or a"
        " unix socket) is needed there.",
        bad=_smtp_auth("tls optional"),
        good=_smtp_auth("tls require_verify"),
    ),
    "W0786": Entry(
        "certificates that nobody is asked for",
        "`auth.external` judges certificates of clients, which only `tls { client_auth optional … }` asks for.",
        bad=lmtp("tls self_signed\nauth external\ndiscard"),
        good=lmtp("tls self_signed {\n    client_auth optional\n    client_ca ./ca.pem\n}\nauth external\ndiscard"),
        needs="a certificate of an authority",
    ),
}
