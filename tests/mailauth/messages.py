"""Messages as odd as mail is, from a seed: what signers and verifiers must agree on."""

from __future__ import annotations

from random import Random

NAMES = (
    "From",
    "To",
    "Subject",
    "subject",
    "CC",
    "Date",
    "Message-ID",
    "X-Odd",
    "List-Id",
    "MIME-Version",
    "References",
    "Reply-To",
)
WORDS = (
    b"a",
    b"word",
    b"  two",
    b"tab\there",
    b"\xc3\xa9t\xc3\xa9",
    b"b=x;",
    b":",
    b"\r\n\tfolded",
    b"\r\n  far",
    b"\t",
    b"trail ",
    b"=20",
)
LINES = (
    b"",
    b"",
    b" ",
    b"\t \t",
    b"text",
    b"two  spaces",
    b"end \t",
    b".",
    b"..",
    b"\xff\xfe 8-bit",
    b"x" * 990,
    b" led",
    b"a\tb",
)


def section(random: Random) -> bytes:
    fields = [b"From: Ann <ann@example.org>\r\n"]
    for _ in range(random.randrange(12)):
        name = random.choice(NAMES[1:]).encode()
        colon = random.choice((b": ", b":", b":  ", b":\t", b":\r\n "))
        value = b" ".join(random.choice(WORDS) for _ in range(random.randrange(6)))
        fields.append(name + colon + value + b"\r\n")
    random.shuffle(fields)
    # A line of white space alone in a field is obsolete, and dkimpy reads it as the end of the header section.
    return b"".join(field if not has_blank_line(field) else b"X-Plain: yes\r\n" for field in fields)


def has_blank_line(field: bytes) -> bool:
    return any(not line.strip(b" \t") for line in field[:-2].split(b"\r\n"))


def body(random: Random) -> bytes:
    lines = [random.choice(LINES) for _ in range(random.choice((0, 1, 2, 8, 40)))]
    lines += [random.choice((b"", b" ", b"\t"))] * random.choice((0, 0, 1, 3))
    text = b"".join(line + b"\r\n" for line in lines)
    # White space at the end of a last line without CRLF stays, for dkimpy; SMTP adds the CRLF, and then it goes, as here.
    return text if random.random() < 0.8 else text.rstrip(b" \t\r\n")


def pieces(random: Random, content: bytes) -> list[bytes]:
    cuts = sorted(random.randrange(len(content) + 1) for _ in range(random.randrange(5)))
    return [content[start:end] for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True)]
