"""Modules, references, targets and listeners: E06, W06, E07, W07."""

from __future__ import annotations

from mailgate.config.codes.entry import Entry, lmtp

_NEXT = "deliver_to &next"
_WEIGHTED = "target.smtp next {{\n    endpoint tcp://10.0.0.1:25 {{\n        weight 2\n    }}\n    balance {}\n}}\n"

_SIGNED = "modify {{\n    dkim example.org mail2026 {{\n        key {}\n    }}\n}}\n"
_UNTRUSTED = "resolver {\n    servers 192.0.2.53\n}\n"
_TRUSTED = "resolver {\n    servers 127.0.0.1\n}\n"


def _target(*lines: str, endpoint: str = "tcp://10.0.0.1:25") -> str:
    """A file with a target of these lines."""
    inner = "".join(f"    {line}\n" for line in lines)
    return lmtp(_NEXT, f"target.smtp next {{\n    targets {endpoint}\n{inner}}}\n")


def _route(hop: str) -> str:
    return (
        "hostname mx.example.org\n"
        f"target.remote direct {{\n    route {hop}\n}}\n"
        "lmtp unix://lmtp.sock {\n    tls off\n    deliver_to &direct\n}\n"
    )


CODES = {
    "E0601": Entry(
        "an unknown module",
        "No module of this kind has this name. The note lists those of this version.",
        bad=lmtp("deliver_to smpt tcp://10.0.0.1:25"),
        good=lmtp("deliver_to smtp tcp://10.0.0.1:25"),
    ),
    "W0601": Entry(
        "nothing refers to an instance",
        "It is named and never used: a leftover, or a reference with another name.",
        bad=_target() + "table.static aliases {\n    entry a b\n}\n",
        good=_target(),
    ),
    "W0606": Entry(
        "nothing listens",
        "No `smtp`, `submission` or `lmtp` block is there, so that no mail comes in: the file may have been cut off. A gateway"
        " does not start with such a file unless it has a queue to empty, and one that listens does not reload it.",
        bad="hostname mx.example.org\n",
        good=lmtp("discard"),
    ),
    "E0602": Entry(
        "nothing has this name",
        "`&name` stands for an instance that is named at the top level of the file, before or after.",
        bad=_target().replace("&next", "&nxt"),
        good=_target(),
    ),
    "E0603": Entry(
        "a name is used twice",
        "Names of instances are unique over the whole file, whatever their kind.",
        bad=_target() + "table.static next {\n    entry a b\n}\n",
        good=_target(),
    ),
    "E0604": Entry(
        "a reference to something of another kind",
        "What has this name can't be used here: a table is no target.",
        bad=lmtp("deliver_to &aliases", "table.static aliases {\n    entry a b\n}\n"),
        good=_target(),
    ),
    "E0605": Entry(
        "a module can't be loaded",
        "It is installed, but a Python library that it needs is not, or it is broken. The hint names the extra to install.",
        needs="an installation without an optional library",
    ),
    "E0700": Entry(
        "a module refuses its settings",
        "Said by a module that is not ours and gives its messages no code of their own.",
        needs="a third party's module",
    ),
    "W0700": Entry(
        "a module warns of its settings",
        "Said by a module that is not ours and gives its messages no code of their own.",
        needs="a third party's module",
    ),
    "W0710": Entry(
        "a verify mode without names",
        "The certificate must come from a trusted authority, but any certificate of anybody passes. Let `tls_verify_host` be, or"
        " name the next hop with `tls_verify_name`.",
        bad=_target("tls require_verify", "tls_verify_host no"),
        good=_target("tls require_verify", "tls_verify_host no", "tls_verify_name mx.example.net"),
    ),
    "W0711": Entry(
        "encrypted, but to whom is not verified",
        "`tls require` takes any certificate, so somebody in the middle is not noticed; with `require_tls` written it looks as if"
        " more were meant.",
        bad=_target("require_tls yes", "tls require"),
        good=_target("tls require_verify"),
    ),
    "W0712": Entry(
        "mail over a public network may be plain text",
        "The address is public, and this mode goes on without TLS where it is not offered, is refused, or fails.",
        bad=_target("tls optional", endpoint="tcp://8.8.8.8:25"),
        good=_target("tls require_verify", "tls_verify_name mx.example.net", endpoint="tcp://8.8.8.8:25"),
    ),
    "W0713": Entry(
        "a password may be read on its way",
        "`auth_insecure` lets the password go over a link that may be clear, or to a peer that is not verified.",
        bad=_target("tls optional", "auth plain gateway secret", "auth_insecure yes"),
        good=_target("tls require_verify", "auth plain gateway secret"),
    ),
    "W0714": Entry(
        "a setting without effect",
        "What else is set makes this limit or setting do nothing: it only looks as if it protected something.",
        bad=lmtp("max_connections_per_ip 5\ndiscard"),
        good=lmtp("max_connections 5\ndiscard"),
    ),
    "E0720": Entry(
        "a certificate, key or option of TLS that can't be used",
        "The file is missing, holds no PEM, certificate and key don't belong together, or OpenSSL does not know the option.",
        bad=lmtp("tls file ./missing.pem ./missing.key\ndiscard"),
        good=lmtp("tls self_signed\ndiscard"),
    ),
    "E0721": Entry(
        "TLS without a certificate",
        "A listener on tls:// needs `tls file CERTIFICATE KEY`, in its block or at the top level.",
        bad="lmtp tls://127.0.0.1:2524 {\n    discard\n}\n",
        good="tls self_signed\nlmtp tls://127.0.0.1:2524 {\n    discard\n}\n",
    ),
    "W0715": Entry(
        "a hole in `tls_protocols`",
        "OpenSSL's clients need versions without a gap between them (SSL_CTX_set_options): what is above the hole is not used.",
        bad=_target("tls_protocols TLSv1.1,TLSv1.3"),
        good=_target("tls_protocols TLSv1.2,TLSv1.3"),
    ),
    "E0722": Entry(
        "client certificates that nobody vouches for",
        "`client_auth optional` and `required` verify what clients show, and `client_ca` names the file with the certificates to"
        " trust.",
        bad=lmtp("tls self_signed {\n    client_auth required\n}\ndiscard"),
        good=lmtp("tls self_signed {\n    client_auth off\n}\ndiscard"),
    ),
    "E0723": Entry(
        "a server name twice",
        "Each name has one `sni` block; `file` in it takes one pair for each kind of key.",
        needs="a certificate",
    ),
    "E0725": Entry(
        "an address that is opened twice",
        "Listeners and `admin` open their addresses themselves, so each stands once in a file. `*` is all"
        " addresses, 0.0.0.0 and [::] are those of one family.",
        bad=lmtp("discard") + "smtp tcp://*:2524 {\n    discard\n}\n",
        good=lmtp("discard") + "smtp tcp://*:2525 {\n    discard\n}\n",
    ),
    "W0724": Entry(
        "everybody is believed",
        "Whoever may send a PROXY header, XCLIENT or XFORWARD can pass for any client, your own network and users included.",
        bad=lmtp("xclient {\n        trust 0.0.0.0/0\n    }\ndiscard"),
        good=lmtp("xclient {\n        trust 10.0.0.7\n    }\ndiscard"),
    ),
    "E0724": Entry(
        "no such user or group",
        "`socket_owner` and `socket_group` take names of this machine, or numbers.",
        bad=lmtp("socket_owner no-such-user-here\ndiscard").replace("tcp://127.0.0.1:2524", "unix://in.sock"),
        good=lmtp("socket_owner 0\ndiscard").replace("tcp://127.0.0.1:2524", "unix://in.sock"),
    ),
    "W0722": Entry(
        "a certificate that has expired, or soon will",
        "It ends within 14 days, so its renewal probably fails. A new one written to the same file is taken over at once, without"
        " a reload.",
        needs="a certificate and a date",
    ),
    "W0723": Entry(
        "a certificate that is not for its name",
        "`sni NAME` shows it to clients that ask for NAME, and those that verify it will refuse it.",
        needs="a certificate",
    ),
    "E0730": Entry(
        "TLS settings that contradict each other",
        "One of them asks for what another forbids. A password needs `tls require_verify`, or `auth_insecure`.",
        bad=_target("tls disabled", "require_tls yes"),
        good=_target("require_tls yes"),
    ),
    "E0731": Entry(
        "a name or password that can't be sent",
        "SASL has no room for NUL in names and passwords (RFC 4616): the file of the password is probably not what it should be.",
        bad=_target("auth plain gateway file:./binary", endpoint="tls://mx.example.net"),
        good=_target("auth plain gateway file:./password", endpoint="tls://mx.example.net"),
        files={"binary": "s3\0cret\n", "password": "s3cret\n"},
    ),
    "E0732": Entry(
        "a target without an endpoint",
        "`targets`, the target's own line, or an `endpoint` block says where to deliver to.",
        bad=lmtp(_NEXT, "target.smtp next {\n    tls disabled\n}\n"),
        good=_target("tls disabled"),
    ),
    "E0733": Entry(
        "the longest back-off is shorter than the first",
        "`backoff FIRST MOST`: how long an endpoint stays out at first, and at most.",
        bad=_target("health {", "    backoff 5m 5s", "}"),
        good=_target("health {", "    backoff 5s 5m", "}"),
    ),
    "E0738": Entry(
        "a weight where there are none",
        "`balance random`, `round_robin` and `least_busy` go by weights; the order written and `hash` do not.",
        bad=lmtp(_NEXT, _WEIGHTED.format("ordered")),
        good=lmtp(_NEXT, _WEIGHTED.format("round_robin")),
    ),
    "E0791": Entry(
        "nobody to ask about recipients",
        "`verify_recipient` asks a target.smtp or target.lmtp, in the name of `<>` or of an address.",
        bad="target.maildir mail /var/mail\n" + lmtp("check {\n    verify_recipient &mail\n}\ndeliver_to &mail"),
        good="target.smtp next tcp://10.0.0.1\n" + lmtp("check {\n    verify_recipient &next\n}\ndeliver_to &next"),
    ),
    "E0736": Entry(
        "a name that can't be said in EHLO",
        "RFC 5321 4.1.2 allows a domain, or an address in brackets: `[192.0.2.1]`, `[IPv6:2001:db8::1]`.",
        bad=_target('hostname "our gateway"'),
        good=_target("hostname gateway.example.org"),
    ),
    "E0737": Entry(
        "no next hop that mail could be routed to",
        "`route` of a `target.remote` names a domain, whose MX hosts get the mail, or in brackets one host or address.",
        bad=_route("mail..example.net"),
        good=_route("[relay.example.net]"),
    ),
    "E0739": Entry(
        "DANE without a resolver that validates",
        "What is published by TLSA counts only if DNSSEC proves it, and that is the resolver's work: one on this machine, or one"
        " that `resolver` calls trusted. With `dane_require` nothing could be delivered.",
        bad=_UNTRUSTED + _target("tls dane_require", endpoint="tcp://mx.example.net"),
        good=_TRUSTED + _target("tls dane_require", endpoint="tcp://mx.example.net"),
    ),
    "E0792": Entry(
        "a `dnsbl` of which nothing can come",
        "A check of lists names at least one, each by a domain, and their scores together reach its thresholds. With"
        " `reject_threshold off` it has a `quarantine_threshold` or `count_score yes`.",
        bad=lmtp("check {\n    dnsbl bl.example.org {\n        reject_threshold 2\n    }\n}\ndiscard"),
        good=lmtp("check {\n    dnsbl bl.example.org bl.example.net {\n        reject_threshold 2\n    }\n}\ndiscard"),
    ),
    "E0796": Entry(
        "a `score` without a threshold",
        "The check adds up what others count, and does something about it at `reject_threshold`, `quarantine_threshold` or"
        " `tag_threshold`.",
        bad=lmtp("check {\n    score\n}\ndiscard"),
        good=lmtp("check {\n    score {\n        quarantine_threshold 6\n    }\n}\ndiscard"),
    ),
    "E0797": Entry(
        "a filter that can't be asked",
        "`rspamd` takes the URL of rspamd's normal worker, `http://HOST:PORT` or https; a file of authorities has a certificate"
        " in PEM form. `action` is for actions that rspamd does not have by itself. A milter has no port unless it is said.",
        bad=lmtp("check {\n    rspamd 127.0.0.1:11333\n}\ndiscard"),
        good=lmtp("check {\n    rspamd http://127.0.0.1:11333\n}\ndiscard"),
    ),
    "E0798": Entry(
        "greylisting that nobody passes",
        "Who comes back must do so after `delay` and within `window`, both counted from the first try.",
        bad=lmtp("check {\n    greylist {\n        delay 1h\n        window 30m\n    }\n}\ndiscard"),
        good=lmtp("check {\n    greylist {\n        delay 10m\n        window 1d\n    }\n}\ndiscard"),
    ),
    "E0786": Entry(
        "a program that can't judge",
        "`command` names a program by its full path, which must be there and may be run. Its arguments may hold `{sender}` and a"
        " few other words in braces; no shell reads them.",
        bad=lmtp("check {\n    command /bin/true {from}\n}\ndiscard"),
        good=lmtp("check {\n    command /bin/true {sender}\n}\ndiscard"),
    ),
    "E0769": Entry(
        "a rule for the content that rules nothing",
        "`header` has `match` or `require` lines, with names of fields and regular expressions; `attachment` has `deny_name` or"
        " `deny_type`.",
        bad=lmtp("check {\n    attachment\n}\ndiscard"),
        good=lmtp("check {\n    attachment {\n        deny_name *.exe\n    }\n}\ndiscard"),
    ),
    "W0795": Entry(
        "nobody would be an authorized sender",
        "Without a table, a user who logs in with a name and not with an address has that name in every one of local_domains; and"
        " there are none.",
        bad=lmtp("check {\n    authorize_sender\n}\ndiscard"),
        good="local_domains example.org\n" + lmtp("check {\n    authorize_sender\n}\ndiscard"),
    ),
    "W0739": Entry(
        "DANE that finds nothing",
        "No resolver is trusted to validate (DNSSEC), so that no TLSA record is ever believed.",
        bad=_UNTRUSTED + _target("tls dane", endpoint="tcp://mx.example.net"),
        good=_TRUSTED + _target("tls dane", endpoint="tcp://mx.example.net"),
    ),
    "E0735": Entry(
        "a value for TLS that can't be used",
        "A list of versions or ciphers that selects nothing, or a name that no certificate could have. `.example.net` stands for"
        " any one label below; `*` is for certificates.",
        bad=_target("tls_verify_name *.example.net"),
        good=_target("tls_verify_name .example.net", "tls require_verify"),
    ),
    "E0734": Entry(
        "a timeout that is set twice",
        "`connect_timeout`, `command_timeout` and `submission_timeout` are other names for steps of `timeouts`: which of the two"
        " is meant is not to be seen.",
        bad=_target("command_timeout 1m", "timeouts {", "    ehlo 2m", "}"),
        good=_target("command_timeout 1m", "timeouts {", "    connect 20s", "}"),
    ),
    "W0740": Entry(
        "a next hop does not answer as it should",
        "Said by `check --online` alone: a name that does not resolve, an address that refuses or does not answer, a greeting"
        " that is none, TLS that is missing or fails, a certificate for another name. Nothing was delivered. With `tls optional`"
        " a message would still go, in plain text.",
        needs="a network",
    ),
    "E0740": Entry(
        "nothing can be delivered to a next hop",
        "Said by `check --online` alone: with the settings of the target no message could be handed over there now.",
        needs="a network",
    ),
    "E0750": Entry(
        "a limit without effect",
        "Where the block is used nothing is counted by this scope: clients, their networks and their names are known to listeners"
        " only, and users only where they can log in.",
        bad=lmtp("limits {\n    user rate 100 1h\n}\ndiscard"),
        good=lmtp("limits {\n    ip rate 100 1h\n}\ndiscard"),
    ),
    "E0751": Entry(
        "a limit is given twice",
        "Two lines of one block say something else about the same scope and kind: which of them is meant is not to be seen.",
        bad=lmtp("limits {\n    ip rate 20 1m\n    ip rate 30 1m\n}\ndiscard"),
        good=lmtp("limits {\n    ip rate 20 1m\n    ip concurrency 5\n}\ndiscard"),
    ),
    "E0752": Entry(
        "`limits` without a line",
        "An empty block limits nothing, which is not what its author meant.",
        bad=lmtp("limits {\n}\ndiscard"),
        good=lmtp("limits {\n    all concurrency 50\n}\ndiscard"),
    ),
    "E0753": Entry(
        "limits that can't be shared like this",
        "Limits of several workers and nodes are counted under the block's name, so that they need one, and `on_failure` says"
        " what holds while the counter can't be asked: `local` or `refuse`. A queue's own limits are for its own mail.",
        bad=lmtp(
            "limits &all_of_us\ndiscard",
            "counter.redis together\nlimits all_of_us {\n    shared &together\n    ip rate 20 1m\n}\n",
        ),
        good=lmtp(
            "limits &all_of_us\ndiscard",
            "counter.redis together\nlimits all_of_us {\n    shared &together\n    on_failure local\n    ip rate 20 1m\n}\n",
        ),
    ),
    "E0793": Entry(
        "a DKIM signature that can't be made",
        "The domain, the selector or a field is no such thing, or the key can't be read or used: it is RSA of 1024 bits or more,"
        " or Ed25519, in PEM form and without a password. `mailgate dkim generate` makes one.",
        bad=lmtp(_SIGNED.format("./text") + "discard"),
        good=lmtp(_SIGNED.format("./key.pem") + "discard"),
        files={
            "text": "no key\n",
            "key.pem": "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIOXV3SzrzWCzMT0zyW2QV2DmH9NKSpbPXCv4AtM/Ht5V\n"
            "-----END PRIVATE KEY-----\n",
        },
    ),
    "E0794": Entry(
        "this can't be done to a field",
        "A field's name is printable ASCII without spaces and colons, its value has no control characters, and what says where a"
        " message has been (Received, Return-Path) is written by those who have it.",
        bad=lmtp('modify {\n    add_header "X Spam" yes\n}\ndiscard'),
        good=lmtp("modify {\n    add_header X-Spam yes\n}\ndiscard"),
    ),
    "E0799": Entry(
        "a module failed to read its configuration",
        "A mistake in the module, not in the file: please report it, with the file.",
        needs="a defect",
    ),
}
