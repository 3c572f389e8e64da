"""Who a message is from: E0795, W0796."""

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
    "W0796": Entry(
        "report data in a directory that is not there",
        "The file for DMARC's report data is made when there is something to write; its directory is not.",
        bad=_checked("dmarc {\n        reports {\n            file ./nowhere/dmarc.sqlite\n        }\n    }"),
        good=_checked("dmarc {\n        reports {\n            file ./dmarc.sqlite\n        }\n    }"),
    ),
}
