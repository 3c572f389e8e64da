"""Who a message is from: E0795."""

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
}
