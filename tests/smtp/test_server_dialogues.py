"""Whole dialogues: (bytes in, events, bytes out), for every way of cutting the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgate.smtp.address import NULL_ADDRESS, Address
from mailgate.smtp.events import (
    Aborted,
    Closed,
    CloseReason,
    Content,
    ContentEnd,
    ContentRefused,
    Data,
    Hello,
    Mail,
    Rcpt,
)
from mailgate.smtp.framing import BARE_LINE_END, TOO_BIG
from mailgate.smtp.parameters import NO_MAIL_PARAMETERS, NO_RCPT_PARAMETERS, BodyType, MailParameters, RcptParameters
from mailgate.smtp.reply import Reply
from mailgate.smtp.settings import ServerSettings

from .conversation import LMTP, RECIPIENT_OK, SENDER_OK, SETTINGS, Answers, converse_all_ways

HELLO = Hello("HELO", "client", False)
EHLO = Hello("EHLO", "client", True)
LHLO = Hello("LHLO", "client", True)
ALICE = Mail(Address("alice", "a.example"), NO_MAIL_PARAMETERS)
BOB = Rcpt(Address("bob", "b.example"), NO_RCPT_PARAMETERS)
NOBODY = Rcpt(Address("no", "b.example"), NO_RCPT_PARAMETERS)
EHLO_REPLY = (
    b"250-mx.example greets client\r\n250-PIPELINING\r\n250-SIZE 33554432\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"
    b"250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250-BINARYMIME\r\n250 LIMITS RCPTMAX=1000\r\n"
)
HELO_REPLY = b"250 mx.example greets client\r\n"
SENDER = b"250 2.1.0 Sender ok\r\n"
RECIPIENT = b"250 2.1.5 Recipient ok\r\n"
DATA = b"354 End data with <CR><LF>.<CR><LF>\r\n"
DONE = b"250 2.0.0 Ok: 1\r\n"
ENVELOPE = b"MAIL FROM:<alice@a.example>\r\nRCPT TO:<bob@b.example>\r\n"


@dataclass(frozen=True)
class Dialogue:
    sent: bytes
    events: list[Any]
    written: bytes
    settings: ServerSettings = SETTINGS
    answers: Answers | None = None
    tls: bool = False


DIALOGUES = {
    "a message": Dialogue(
        b"EHLO client\r\n" + ENVELOPE + b"DATA\r\nA: b\r\n\r\nbody\r\n.\r\nQUIT\r\n",
        [EHLO, ALICE, BOB, Data(False), Content(b"A: b\r\n\r\nbody\r\n"), ContentEnd(), Closed(CloseReason.QUIT)],
        EHLO_REPLY + SENDER + RECIPIENT + DATA + DONE + b"221 2.0.0 Bye\r\n",
    ),
    "two messages in one session, dots unstuffed": Dialogue(
        b"HELO client\r\n" + 2 * (ENVELOPE + b"DATA\r\n..\r\n\r\n..a\r\n.b\r\n.\r\n"),
        [HELLO, *2 * [ALICE, BOB, Data(False), Content(b".\r\n\r\n.a\r\nb\r\n"), ContentEnd()]],
        HELO_REPLY + 2 * (SENDER + RECIPIENT + DATA + DONE),
    ),
    "an empty message": Dialogue(
        b"HELO client\r\n" + ENVELOPE + b"DATA\r\n.\r\n",
        [HELLO, ALICE, BOB, Data(False), ContentEnd()],
        HELO_REPLY + SENDER + RECIPIENT + DATA + DONE,
    ),
    "verbs in any case, null sender, Postmaster": Dialogue(
        b"helo client\r\nmail from:<>\r\nRcpt To:<Postmaster>\r\n",
        [HELLO, Mail(NULL_ADDRESS, NO_MAIL_PARAMETERS), Rcpt(Address("Postmaster", ""), NO_RCPT_PARAMETERS)],
        HELO_REPLY + SENDER + RECIPIENT,
    ),
    "parameters": Dialogue(
        b"EHLO client\r\nMAIL FROM:<\xc3\xbc@b\xc3\xbccher.example> SIZE=1000 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=x+2Bx\r\n"
        b"RCPT TO:<bob@b.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;bob@b.example\r\n",
        [
            EHLO,
            Mail(
                Address("ü", "bücher.example"),
                MailParameters(size=1000, body=BodyType.EIGHT_BIT, smtputf8=True, ret="HDRS", envid="x+2Bx"),
            ),
            Rcpt(
                Address("bob", "b.example"),
                RcptParameters(notify=frozenset({"SUCCESS", "FAILURE"}), orcpt="rfc822;bob@b.example"),
            ),
        ],
        EHLO_REPLY.replace(b"250 LIMITS", b"250-DSN\r\n250 LIMITS") + SENDER + RECIPIENT,
        ServerSettings("mx.example", dsn=True),
    ),
    "a refused MAIL leaves nothing behind": Dialogue(
        b"EHLO client\r\nMAIL FROM:<alice@a.example> BODY=8BITMIME SMTPUTF8\r\nRCPT TO:<bob@b.example>\r\n"
        b"MAIL FROM:<alice@a.example>\r\nRCPT TO:<\xc3\xbc@b.example>\r\n",
        [EHLO, Mail(ALICE.address, MailParameters(body=BodyType.EIGHT_BIT, smtputf8=True)), ALICE],
        EHLO_REPLY
        + b"550 5.7.1 not you\r\n503 5.5.1 MAIL comes first, and RCPT before BDAT\r\n"
        + SENDER
        + b"553 5.6.7 Non-ASCII address without SMTPUTF8\r\n",
        answers={Mail: lambda mail: Reply(550, "5.7.1", "not you") if mail.parameters.smtputf8 else SENDER_OK},
    ),
    "RSET and EHLO abort a transaction, NOOP does not": Dialogue(
        b"HELO client\r\nMAIL FROM:<alice@a.example>\r\nNOOP\r\nRSET\r\nRSET\r\n" + ENVELOPE + b"HELO client\r\n",
        [HELLO, ALICE, Aborted(), ALICE, BOB, Aborted(), HELLO],
        HELO_REPLY + SENDER + 3 * b"250 2.0.0 Ok\r\n" + SENDER + RECIPIENT + HELO_REPLY,
    ),
    "chunks": Dialogue(
        b"EHLO client\r\n" + ENVELOPE + b"BDAT 7\r\nA: b\r\n\rBDAT 7\r\n\nbody\r\nBDAT 0\r\nbdat 3 last\r\nabcNOOP\r\n",
        [EHLO, ALICE, BOB, Data(True), Content(b"A: b\r\n\r\nbody\r\nabc"), ContentEnd()],
        EHLO_REPLY + SENDER + RECIPIENT + 2 * b"250 2.0.0 7 octets received\r\n" + b"250 2.0.0 0 octets received\r\n"
        + DONE + b"250 2.0.0 Ok\r\n",
    ),
    "an empty message by BDAT": Dialogue(
        b"EHLO client\r\n" + ENVELOPE + b"BDAT 0 LAST\r\n",
        [EHLO, ALICE, BOB, Data(True), ContentEnd()],
        EHLO_REPLY + SENDER + RECIPIENT + DONE,
    ),
    "a chunk may hold what looks like the end of data, and commands": Dialogue(
        b"EHLO client\r\n" + ENVELOPE + b"BDAT 20 LAST\r\na\r\n.\r\nMAIL FROM:<>\r\n",
        [EHLO, ALICE, BOB, Data(True), Content(b"a\r\n.\r\nMAIL FROM:<>\r\n"), ContentEnd()],
        EHLO_REPLY + SENDER + RECIPIENT + DONE,
    ),
    "a binary message": Dialogue(
        b"EHLO client\r\nMAIL FROM:<alice@a.example> BODY=BINARYMIME\r\nRCPT TO:<bob@b.example>\r\nDATA\r\n"
        b"BDAT 10 LAST\r\nA\r\n\r\n\0\n\r\rb",
        [
            EHLO,
            Mail(ALICE.address, MailParameters(body=BodyType.BINARY)),
            BOB,
            Data(True),
            Content(b"A\r\n\r\n\0\n\r\rb"),
            ContentEnd(),
        ],
        EHLO_REPLY + SENDER + RECIPIENT + b"503 5.5.1 A BINARYMIME message comes by BDAT\r\n" + DONE,
    ),
    "a refused first chunk is thrown away and ends the transaction": Dialogue(
        b"EHLO client\r\n" + ENVELOPE + b"BDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n",
        [EHLO, ALICE, BOB, Data(True), Aborted()],
        EHLO_REPLY + SENDER + RECIPIENT + b"452 4.3.1 full\r\n503 5.5.1 An accepted RCPT comes first\r\n250 2.0.0 Ok\r\n",
        answers={Data: lambda event: Reply(452, "4.3.1", "full")},
    ),
    "no RCPT, MAIL or DATA between chunks": Dialogue(
        b"EHLO client\r\n" + ENVELOPE + b"BDAT 1\r\na" + ENVELOPE + b"DATA\r\nVRFY x\r\nBDAT 1 LAST\r\nb",
        [EHLO, ALICE, BOB, Data(True), Content(b"ab"), ContentEnd()],
        EHLO_REPLY + SENDER + RECIPIENT + b"250 2.0.0 1 octets received\r\n503 5.5.1 A transaction is open already\r\n"
        b"503 5.5.1 MAIL comes first, and RCPT before BDAT\r\n503 5.5.1 An accepted RCPT comes first, and no BDAT\r\n"
        b"252 2.1.5 Cannot verify, but will take the message and try\r\n" + DONE,
    ),
    "BDAT with another word than LAST loses the message": Dialogue(
        b"EHLO client\r\n" + ENVELOPE + b"BDAT 1\r\naBDAT 6 NEXT\r\nQUIT\r\nNOOP\r\n",
        [EHLO, ALICE, BOB, Data(True), Content(b"a"), Aborted()],
        EHLO_REPLY + SENDER + RECIPIENT + b"250 2.0.0 1 octets received\r\n501 5.5.4 Bad argument of BDAT\r\n250 2.0.0 Ok\r\n",
    ),
    "a chunk without a transaction is thrown away": Dialogue(
        b"BDAT 6\r\nQUIT\r\nEHLO client\r\nBDAT 6 LAST\r\nQUIT\r\nMAIL FROM:<alice@a.example>\r\nBDAT 6 LAST\r\nQUIT\r\n",
        [EHLO, ALICE],
        b"503 5.5.1 Say EHLO first\r\n" + EHLO_REPLY + b"503 5.5.1 An accepted RCPT comes first\r\n" + SENDER
        + b"503 5.5.1 An accepted RCPT comes first\r\n",
    ),
    "a chunk too big is thrown away": Dialogue(
        b"EHLO client\r\n" + ENVELOPE + b"BDAT 12\r\nQUIT\r\nQUIT\r\nNOOP\r\n",
        [EHLO, ALICE, BOB, Data(True), ContentRefused(TOO_BIG)],
        EHLO_REPLY.replace(b"33554432", b"10") + SENDER + RECIPIENT
        + b"552 5.3.4 Message exceeds the maximum size\r\n250 2.0.0 Ok\r\n",
        ServerSettings("mx.example", max_message_size=10),
    ),
    "BDAT of a disabled verb": Dialogue(
        b"EHLO client\r\n" + ENVELOPE + b"BDAT 6 LAST\r\nQUIT\r\nMAIL FROM:<> BODY=BINARYMIME\r\n",
        [EHLO, ALICE, BOB],
        EHLO_REPLY.replace(b"250-CHUNKING\r\n250-BINARYMIME\r\n", b"") + SENDER + RECIPIENT
        + b"502 5.5.1 Command not implemented\r\n503 5.5.1 A transaction is open already\r\n",
        ServerSettings("mx.example", disable_commands=frozenset({"BDAT"})),
    ),
    "content too big, the next message passes": Dialogue(
        b"HELO client\r\n" + ENVELOPE + b"DATA\r\n123456789\r\n.\r\n" + ENVELOPE + b"DATA\r\n12345678\r\n.\r\n",
        [
            *(HELLO, ALICE, BOB, Data(False), ContentRefused(TOO_BIG)),
            *(ALICE, BOB, Data(False), Content(b"12345678\r\n"), ContentEnd()),
        ],
        HELO_REPLY + SENDER + RECIPIENT + DATA + b"552 5.3.4 Message exceeds the maximum size\r\n"
        + SENDER + RECIPIENT + DATA + DONE,
        ServerSettings("mx.example", max_message_size=10),
    ),
    "LMTP answers for each accepted recipient, twice for the same one": Dialogue(
        b"LHLO client\r\n" + ENVELOPE + b"RCPT TO:<no@b.example>\r\nRCPT TO:<bob@b.example>\r\nDATA\r\na\r\n.\r\nNOOP\r\n",
        [LHLO, ALICE, BOB, NOBODY, BOB, Data(False), Content(b"a\r\n"), ContentEnd()],
        EHLO_REPLY + SENDER + RECIPIENT + b"550 5.1.1 unknown\r\n" + RECIPIENT + DATA
        + DONE + b"452 4.2.2 full\r\n250 2.0.0 Ok\r\n",
        LMTP,
        {
            Rcpt: lambda rcpt: Reply(550, "5.1.1", "unknown") if rcpt == NOBODY else RECIPIENT_OK,
            ContentEnd: lambda event: [Reply(250, "2.0.0", "Ok: 1"), Reply(452, "4.2.2", "full")],
        },
    ),
    "LMTP answers refused content for each recipient": Dialogue(
        b"LHLO client\r\n" + ENVELOPE + b"RCPT TO:<bob@b.example>\r\nDATA\r\na\nb\r\n.\r\nNOOP\r\n",
        [LHLO, ALICE, BOB, BOB, Data(False), ContentRefused(BARE_LINE_END)],
        EHLO_REPLY + SENDER + 2 * RECIPIENT + DATA + 2 * b"550 5.6.11 Content holds bare CR or LF\r\n" + b"250 2.0.0 Ok\r\n",
        LMTP,
    ),
    "LMTP answers the last chunk for each recipient, the others once": Dialogue(
        b"LHLO client\r\n" + ENVELOPE + b"RCPT TO:<bob@b.example>\r\nBDAT 1\r\naBDAT 1 LAST\r\nb",
        [LHLO, ALICE, BOB, BOB, Data(True), Content(b"ab"), ContentEnd()],
        EHLO_REPLY + SENDER + 2 * RECIPIENT + b"250 2.0.0 1 octets received\r\n" + 2 * DONE,
        LMTP,
    ),
    "one reply to ContentEnd serves all recipients of LMTP": Dialogue(
        b"LHLO client\r\n" + ENVELOPE + b"RCPT TO:<bob@b.example>\r\nDATA\r\n.\r\n",
        [LHLO, ALICE, BOB, BOB, Data(False), ContentEnd()],
        EHLO_REPLY + SENDER + 2 * RECIPIENT + DATA + 2 * b"451 4.3.0 later\r\n",
        LMTP,
        {ContentEnd: lambda event: Reply(451, "4.3.0", "later")},
    ),
    "hello words of the other protocol": Dialogue(
        b"LHLO client\r\nEHLO client\r\n", [EHLO], b"500 5.5.1 Say EHLO here\r\n" + EHLO_REPLY
    ),
    "SMTP's hello words in LMTP": Dialogue(
        b"HELO client\r\nEHLO client\r\nLHLO client\r\n", [LHLO], 2 * b"500 5.5.1 Say LHLO here\r\n" + EHLO_REPLY, LMTP
    ),
    "DATA sent in spite of a refusal is not obeyed": Dialogue(
        b"HELO client\r\n" + ENVELOPE + b"DATA\r\nSubject: x\r\n\r\nMAIL FROM:<>\r\n.\r\n",
        [HELLO, ALICE, BOB, Data(False), Closed(CloseReason.CONTENT_AFTER_REFUSAL)],
        HELO_REPLY + SENDER + RECIPIENT + b"554 5.7.1 no\r\n421 4.7.0 DATA was refused, content is not wanted\r\n",
        answers={Data: lambda event: Reply(554, "5.7.1", "no")},
    ),
    "a well-behaved client after refused DATA": Dialogue(
        b"HELO client\r\nDATA\r\nRSET\r\nMAIL FROM:<alice@a.example>\r\nWHAT\r\n",
        [HELLO, ALICE],
        HELO_REPLY + b"503 5.5.1 An accepted RCPT comes first, and no BDAT\r\n250 2.0.0 Ok\r\n" + SENDER
        + b"500 5.5.1 Command not recognized\r\n",
    ),
    "replies under SMTPUTF8 may be": Dialogue(
        b"EHLO client\r\nMAIL FROM:<alice@a.example> SMTPUTF8\r\nRCPT TO:<bob@b.example>\r\nRSET\r\n"
        b"MAIL FROM:<alice@a.example>\r\nRCPT TO:<bob@b.example>\r\n",
        [EHLO, Mail(ALICE.address, MailParameters(smtputf8=True)), BOB, Aborted(), ALICE, BOB],
        EHLO_REPLY + SENDER + "550 5.1.1 für Bob\r\n".encode() + b"250 2.0.0 Ok\r\n" + SENDER + b"550 5.1.1 f?r Bob\r\n",
        answers={Rcpt: lambda event: Reply(550, "5.1.1", "für Bob")},
    ),
    "but not once the transaction is over": Dialogue(
        b"EHLO client\r\nMAIL FROM:<alice@a.example> SMTPUTF8\r\nRSET\r\nMAIL FROM:<alice@a.example>\r\n",
        [EHLO, Mail(ALICE.address, MailParameters(smtputf8=True)), Aborted(), ALICE],
        EHLO_REPLY + SENDER + b"250 2.0.0 Ok\r\n550 5.7.1 f?r Alice nicht\r\n",
        answers={Mail: lambda mail: SENDER_OK if mail.parameters.smtputf8 else Reply(550, "5.7.1", "für Alice nicht")},
    ),
    "a driver's 421 closes": Dialogue(
        b"HELO client\r\nMAIL FROM:<alice@a.example>\r\nNOOP\r\n",
        [HELLO, ALICE, Closed(CloseReason.REPLIED)],
        HELO_REPLY + b"421 4.3.2 going down\r\n",
        answers={Mail: lambda event: Reply(421, "4.3.2", "going down")},
    ),
    "a driver's 421 to the content closes": Dialogue(
        b"HELO client\r\n" + ENVELOPE + b"DATA\r\n.\r\nNOOP\r\n",
        [HELLO, ALICE, BOB, Data(False), ContentEnd(), Closed(CloseReason.REPLIED)],
        HELO_REPLY + SENDER + RECIPIENT + DATA + b"421 4.3.2 going down\r\n",
        answers={ContentEnd: lambda event: Reply(421, "4.3.2", "going down")},
    ),
    "no enhanced codes when they are hidden": Dialogue(
        b"HELO client\r\nNOOP\r\nWHAT\r\n" + ENVELOPE,
        [HELLO, ALICE, BOB],
        HELO_REPLY + b"250 Ok\r\n500 Command not recognized\r\n250 Sender ok\r\n250 Recipient ok\r\n",
        ServerSettings("mx.example", hide=frozenset({"ENHANCEDSTATUSCODES"})),
    ),
    "lenient paths": Dialogue(
        b"HELO client\r\nmail  FROM : alice@a.example\r\nRSET\r\nMAIL FROM: < alice@a.example >\r\nRCPT TO: <bob@b.example> \r\n",
        [HELLO, ALICE, Aborted(), ALICE, BOB],
        HELO_REPLY + SENDER + b"250 2.0.0 Ok\r\n" + SENDER + RECIPIENT,
        ServerSettings("mx.example", strict_addresses=False),
    ),
}  # fmt: skip


class Dialogues(SynchronousTestCase):
    """Each row of the table, sent in every way."""

    def test_table(self) -> None:
        for name, dialogue in DIALOGUES.items():
            transcript = converse_all_ways(dialogue.sent, dialogue.settings, dialogue.answers, tls=dialogue.tls)
            self.assertEqual(transcript.events, dialogue.events, name)
            self.assertEqual(transcript.output, dialogue.written, name)
