"""`modify.dkim`: sign what goes out in the name of a domain (RFC 6376, RFC 8463).

Messages are signed whose From is of the domain, of one that the `domains` table has, or, with `subdomains`, of one below; others
pass unsigned, so that several lines stand side by side. Two lines for one domain, say with RSA and Ed25519, are two signatures. A
message that should be signed and can't be is refused: for good if it has several From fields, else 451. It never goes out
unsigned because something broke.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import REQUIRED, Argument, Directive
from mailgate.mailauth.canonical import Form
from mailgate.mailauth.dkim import OVERSIGNED, SIGNED, Signer, Signing, SigningSettings
from mailgate.message.authors import author_domains
from mailgate.message.header import Header
from mailgate.message.message import Message
from mailgate.modules._hashing import feed
from mailgate.modules.modify._signing import SigningModifier, signing_name
from mailgate.pipeline.lookup import look_up
from mailgate.pipeline.router import place
from mailgate.smtp.address import domain_key
from mailgate.smtp.reply import MailError, Reply, TemporaryError

SEVERAL_FROM = Reply(554, "5.6.0", "The message has more than one From field")

_FORMS = tuple(f"{header.value}/{body.value}" for header in reversed(Form) for body in reversed(Form))
_FIELD_NAME = re.compile(r"[!-9;-~]+\Z")


class Dkim(SigningModifier):
    """Signs messages whose From is of a domain, with the key that others find under a selector of it."""

    name = "modify.dkim"

    domain = Argument("DOMAIN", v.String("DOMAIN"), doc="Whose signature it is; From must be of it.", origin="maddy")
    selector = Argument("SELECTOR", v.String("SELECTOR"), doc="Which of its keys: the first label of the record.", origin="maddy")
    key = Directive(
        "key",
        v.Path(),
        default=REQUIRED,
        doc="The private key, RSA or Ed25519, in PEM form; `mailgate dkim generate` makes one.",
    )
    domains = Directive(
        "domains",
        v.ModuleLine("table"),
        doc="More domains with this selector and key: From of one that the table has is signed in its own name, or in that of the"
        " table's value.",
    )
    subdomains = Directive(
        "subdomains", v.Boolean(), default=False, doc="Sign for names below the domain too, in its name.", origin="maddy"
    )
    canonicalization = Directive(
        "canonicalization",
        v.Choice(*_FORMS),
        default="relaxed/relaxed",
        doc="What may happen to header and body on the way: `relaxed` bears other white space.",
        origin="maddy",
    )
    oversign_headers = Directive(
        "oversign_headers",
        v.Strings("FIELD"),
        default=OVERSIGNED,
        doc="Fields that are signed so that nobody can add another one; From is always one of them.",
        origin="maddy",
    )
    sign_headers = Directive(
        "sign_headers", v.Strings("FIELD"), default=SIGNED, doc="Fields that are signed where they are.", origin="maddy"
    )
    expire = Directive(
        "expire",
        v.Duration(),
        default=14 * 86400.0,
        doc="How long a signature counts, so that it can't be replayed for ever; longer than two queues keep mail. 0: always.",
        origin="maddy",
    )

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        header, _, body = self.canonicalization.partition("/")
        oversigned = self.oversign_headers
        if "from" not in map(str.lower, oversigned):
            oversigned = ("From", *oversigned)
        once = {name.lower() for name in oversigned}
        signed = tuple(name for name in self.sign_headers if name.lower() not in once)
        self._settings = SigningSettings(Form(header), Form(body), signed, oversigned, int(self.expire))
        self._d = signing_name(self.domain)
        self._domain_key = domain_key(self.domain)

    def configure(self, report: Report) -> None:
        super().configure(report)
        for name, listed in (("oversign_headers", self.oversign_headers), ("sign_headers", self.sign_headers)):
            for field in listed:
                if not _FIELD_NAME.match(field) or field.lower() == "dkim-signature":
                    report.error(self.span_of(name), f"`{field}` is no field that can be signed", code="E0793")

    async def signed_message(self, message: Message) -> Message:
        fields = Header(message.header).values("from")
        domain = await self._signing(author_domains(fields))
        if not domain:
            return message
        if len(fields) > 1:
            raise MailError(SEVERAL_FROM, f"a signature of {domain}", place(self.span))
        signer = Signer(domain, self.selector.lower(), self.private_key)
        return message.with_header(await self._field(signer, message) + message.header)

    async def _signing(self, domains: Sequence[str]) -> str:
        """In whose name a message is signed that is from these; "" if in nobody's. :raises MailError: the table can't answer."""
        for domain in domains:
            if domain == self._domain_key or (self.subdomains and domain.endswith(f".{self._domain_key}")):
                return self._d
            values = await look_up(self.domains, domain) if self.domains is not None else ()
            if values:
                name = signing_name(values[0] or domain)
                if not name:
                    reason = f"the table of domains has {values[0]!r} for {domain}, which is no domain"
                    raise TemporaryError("Bad entry for this domain", enhanced="4.3.5", reason=reason, where=place(self.span))
                return name
        return ""

    async def _field(self, signer: Signer, message: Message) -> bytes:
        adapters = self.context.adapters
        assert adapters is not None
        now = adapters.wall_time()
        signing = Signing(message.header, self._settings)
        await feed(signing.update, message, adapters)
        return await self.sign(signer.sign, signing.unsigned(signer, now))
