"""A filter made with pymilter, and so with Sendmail's own libmilter: run by the system's Python, which has Debian's
python3-milter. It does as addresses and subjects say, and writes down what it hears: argument 1 is its socket, 2 that file."""

import json
import sys

import Milter  # type: ignore[import-not-found]


@Milter.rejected_recipients
@Milter.header_leading_space
class Filter(Milter.Base):  # type: ignore[misc]
    def note(self, *words: object) -> None:
        with open(sys.argv[2], "a") as file:
            file.write(json.dumps(words) + "\n")

    def connect(self, name: str, family: int, address: object) -> object:
        self.note("connect", name, address, self.getsymval("{client_addr}"), self.getsymval("{daemon_name}"))
        return Milter.CONTINUE

    def hello(self, name: str) -> object:
        self.note("hello", name, self.getsymval("{tls_version}"))
        if name == "bad.test":
            self.setreply("550", "5.7.7", "bad", "hello")
            return Milter.REJECT
        return Milter.CONTINUE

    def envfrom(self, sender: str, *parameters: str) -> object:
        self.subject = ""
        self.note("mail", sender, parameters, self.getsymval("{mail_addr}"), self.getsymval("i") is not None)
        return Milter.TEMPFAIL if sender == "<later@x.test>" else Milter.CONTINUE

    def envrcpt(self, recipient: str, *parameters: str) -> object:
        self.note("rcpt", recipient, parameters, self.getsymval("{rcpt_mailer}"))
        return Milter.REJECT if recipient == "<no@y.test>" else Milter.CONTINUE

    @Milter.noreply
    def header(self, name: str, value: str) -> object:
        if name == "Subject":
            self.subject = value
        return Milter.CONTINUE

    def body(self, piece: bytes) -> object:
        self.note("body", len(piece))
        return Milter.SKIP

    def eom(self) -> object:
        word = self.subject.strip()
        self.note("end", self.subject, self.getsymval("{msg_id}"))
        if word == "change":
            self.progress()
            self.addheader("X-Added", "1\n\tfolded")
            self.addheader("X-First", "0", 0)
            self.chgheader("Subject", 1, " changed")
            self.chgheader("Date", 1, "")
            self.replacebody(b"another\r\n")
            self.addrcpt("<added@y.test>", "NOTIFY=NEVER")
            self.delrcpt("<bob@y.test>")
            self.chgfrom("<new@x.test>", "RET=HDRS")
            self.quarantine("odd")
        elif word == "throw away":
            return Milter.DISCARD
        elif word == "refuse":
            self.setreply("554", "5.6.9", "not", "this one")
            return Milter.REJECT
        return Milter.CONTINUE

    def abort(self) -> object:
        self.note("abort")
        return Milter.CONTINUE

    def close(self) -> object:
        self.note("close")
        return Milter.CONTINUE


Milter.factory = Filter
Milter.set_flags(
    Milter.ADDHDRS | Milter.CHGHDRS | Milter.CHGBODY | Milter.ADDRCPT | Milter.ADDRCPT_PAR | Milter.DELRCPT | Milter.CHGFROM
    | Milter.QUARANTINE
)  # fmt: skip
Milter.runmilter("mailgate-test", sys.argv[1], 60)
