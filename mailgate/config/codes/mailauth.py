"""Who a message is from: E0795, E0797, W0796."""

from mailgate.config.codes.entry import Entry, lmtp


def _checked(check: str) -> str:
    return lmtp(f"check {{\n    {check}\n}}\ndiscard")


CODES = {
    "E0795": Entry(
        "a check of senders with a domain that is none",
        "Domains are names such as example.org; those below them are meant too.",
        bad=_checked("dkim {\n        required_for example..org\n    }"),
        good=_checked("dkim {\n        required_for example.org\n    }"),
    ),
    "E0829": Entry(
        "senders that can't be rewritten",
        "`srs` needs a domain whose mail comes here, and a secret of at least eight characters: who guesses it sends bounces"
        " through us to whomever they like.",
        bad=lmtp("modify {\n    srs srs.example.org {\n        secret short\n    }\n}\ndiscard"),
        good=lmtp("modify {\n    srs srs.example.org {\n        secret a-long-secret\n    }\n}\ndiscard"),
    ),
    "W0796": Entry(
        "report data in a directory that is not there",
        "The file for DMARC's report data is made when there is something to write; its directory is not.",
        bad=_checked("dmarc {\n        reports {\n            file ./nowhere/dmarc.sqlite\n        }\n    }"),
        good=_checked("dmarc {\n        reports {\n            file ./dmarc.sqlite\n        }\n    }"),
    ),
}
