"""Inputs that a server should survive: dialogues, damaged in the ways that have hurt servers before. One seed, one input."""

from __future__ import annotations

import random

DIALOGUES: tuple[list[bytes], ...] = tuple(
    text.split(b"|")
    for text in (
        b"EHLO client.test|MAIL FROM:<a@client.test>|RCPT TO:<b@mx.test>|DATA|Subject: x\r\n\r\nhello\r\n.|QUIT",
        b"EHLO client.test|MAIL FROM:<> SIZE=1000 BODY=8BITMIME|RCPT TO:<Postmaster>|DATA|a: b\r\n\r\n..\r\n.|RSET",
        b"LHLO client.test|MAIL FROM:<a@client.test>|RCPT TO:<b@mx.test>|RCPT TO:<b@mx.test>|DATA|x\r\n.",
        b"HELO client.test|NOOP|VRFY a|HELP|EXPN x|ETRN y|TURN",
        b"EHLO x|MAIL FROM:<a@x> SMTPUTF8|RCPT TO:<\xc3\xbc@x>|BDAT 12\r\nSubject: x\r\n|BDAT 4 LAST\r\n\r\nx\r\n|NOOP",
        b"EHLO x|MAIL FROM:<a@x>|RCPT TO:<b@y> NOTIFY=NEVER ORCPT=rfc822;b+40y|BDAT 0 LAST|RSET",
        b"EHLO x|AUTH PLAIN AGEAYg==|MAIL FROM:<a@x> AUTH=<>|RCPT TO:<b@y>",
        b"EHLO x|AUTH LOGIN|YQ==|Yg==|AUTH PLAIN|*",
        b"EHLO x|XCLIENT ADDR=192.0.2.7 NAME=c.test LOGIN=a+20b|EHLO y|MAIL FROM:<a@x>|XCLIENT NAME=[UNAVAILABLE]",
        b"EHLO x|XFORWARD NAME=c.test ADDR=IPV6:2001:db8::7 SOURCE=REMOTE|MAIL FROM:<a@x>|RCPT TO:<b@y>|DATA|x\r\n.",
        b"EHLO x|STARTTLS|EHLO x|MAIL FROM:<a@x> REQUIRETLS RET=HDRS ENVID=1|RCPT TO:<@a,@b:c@d>",
        b'EHLO [192.0.2.1]|MAIL FROM:<"a b"@[IPv6:2001:db8::1]>|RCPT TO:<"\\"@\\""@y>|DATA|\r\n.',
    )
)

PIECES = (
    *(b"\r", b"\n", b"\r\n", b"\0", b".", b"\r\n.\r\n", b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r\n.\r", b"\x1b[2J"),
    *(b"<", b">", b"@", b" ", b"\t", b"+", b"=", b"\xff", b"\xc3", b"\xe2\x80\xa8", b"\x80", b"%s%n", b"{}", b"'\""),
    *(b"-1", b"0", b"9223372036854775808", b"x" * 300, b" SIZE=99999999999", b" BODY=BINARYMIME", b" XYZZY=1"),
    *(b"MAIL FROM:<i@x>\r\n", b"RCPT TO:<j@y>\r\n", b"DATA\r\n", b"QUIT\r\n", b"RSET\r\n", b"STARTTLS\r\n", b"BDAT 5\r\n"),
    *(b"GET / HTTP/1.1\r\n", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", b"XCLIENT LOGIN=root\r\n"),
)


def dialogue(seed: int) -> bytes:
    """One input."""
    chance = random.Random(seed)
    lines = list(chance.choice(DIALOGUES))
    if chance.random() < 0.3:
        lines += chance.choice(DIALOGUES)
    for _ in range(chance.randrange(4)):
        _shuffle(lines, chance)
    data = bytearray(b"".join(line + b"\r\n" for line in lines))
    for _ in range(chance.choice((0, 1, 1, 2, 3, 8))):
        _damage(data, chance)
    return bytes(data)


def cuts(data: bytes, seed: int) -> list[bytes]:
    """The same in pieces."""
    chance = random.Random(~seed)
    if chance.random() < 0.2:
        return [data[at : at + 1] for at in range(len(data))]
    edges = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(6)))
    return [data[start:end] for start, end in zip([0, *edges], [*edges, len(data)], strict=True) if start < end]


def _shuffle(lines: list[bytes], chance: random.Random) -> None:
    at = chance.randrange(len(lines))
    match chance.randrange(4):
        case 0:
            lines.insert(at, lines[at])
        case 1 if len(lines) > 1:
            del lines[at]
        case 2:
            other = chance.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        case _:
            lines.insert(at, chance.choice(chance.choice(DIALOGUES)))


def _damage(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    match chance.randrange(6):
        case 0:
            data[at:at] = chance.choice(PIECES)
        case 1:
            del data[at : at + chance.choice((1, 1, 2, 5, 20))]
        case 2 if at < len(data):
            data[at] = chance.randrange(256)
        case 3:
            data[at:at] = data[at : at + chance.randrange(1, 30)]
        case 4:
            data[at : at + 1] = bytes(chance.randrange(256) for _ in range(chance.randrange(4)))
        case _:
            data[at : at + 20] = bytes(data[at : at + 20]).swapcase()
