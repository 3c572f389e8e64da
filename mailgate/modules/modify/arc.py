"""`modify.arc`: seal what was found about a message, for those who get it next (RFC 8617).

For who passes mail on: what has failed at the next hop because of us has passed here, and we say so. The set that is added holds
our own Authentication-Results as they stand in the message, so the checks of the listener must have been asked; with the state of
the chain as the message came, which `check.arc` has found, or is found now. It comes after what else changes the message: the
last line of `modify`.

A chain whose keys can't be asked for is neither sealed as whole nor as broken: 451.
"""

from __future__ import annotations

import re

from mailgate.config import values as v
from mailgate.config.schema import REQUIRED, Argument, Directive
from mailgate.mailauth.arc import Chain, Outcome, Sealing, Verdict
from mailgate.mailauth.dkim import SIGNED, Signer, SigningSettings
from mailgate.message.findings import MethodResult, results_text, value
from mailgate.message.header import own_results
from mailgate.message.message import Message
from mailgate.modules._hashing import feed
from mailgate.modules.check._authentication import verified
from mailgate.modules.modify._signing import SigningModifier, signing_name
from mailgate.pipeline.router import place
from mailgate.registry.module import Globals
from mailgate.smtp.reply import TemporaryError

_SETTINGS = SigningSettings(signed=(*SIGNED, "DKIM-Signature"))
_FOUND = re.compile(r"(?:\A|;\s*)arc=(none|pass|fail)\b")


class Arc(SigningModifier):
    """Seals messages that are passed on, with what our checks have found, under a key of a domain."""

    name = "modify.arc"

    domain = Argument("DOMAIN", v.String("DOMAIN"), doc="Whose seal it is.")
    selector = Argument("SELECTOR", v.String("SELECTOR"), doc="Which of its keys: the first label of the record.")
    key = Directive(
        "key", v.Path(), default=REQUIRED, doc="The private key, RSA or Ed25519, in PEM form; few verifiers know Ed25519 here."
    )
    authserv_id = Directive(
        "authserv_id",
        v.String("NAME"),
        default="",
        inherit=Globals.authserv_id,
        doc="Whose Authentication-Results are sealed: the `authserv_id` of the listener; our hostname by default.",
    )

    async def signed_message(self, message: Message) -> Message:
        adapters = self.context.adapters
        assert adapters is not None
        name = self.authserv_id or self.context.hostname
        found = own_results(message.header, name)
        before = await self._before(found, message)
        if before.outcome is Outcome.TEMPERROR:
            raise TemporaryError("Can't be sealed at present", enhanced="4.7.5", reason=before.reason, where=place(self.span))
        if not _FOUND.search(found):
            arc = results_text(name, [MethodResult("arc", before.outcome.value, before.reason)])
            results = f"{arc};\r\n\t{found}" if found else arc
        else:
            results = f"{value(name)};\r\n\t{found}"
        sealing = Sealing(message.header, _SETTINGS)
        await feed(sealing.update, message, adapters)
        signer = Signer(signing_name(self.domain), signing_name(self.selector), self.private_key)
        fields = await self.sign(sealing.seal, signer, results, before, adapters.wall_time())
        return message.with_header(fields + message.header) if fields else message

    async def _before(self, found: str, message: Message) -> Verdict:
        """The chain as the message came."""
        chain = Chain(message.body.header)
        if not chain.is_there:
            return Verdict(Outcome.NONE)
        if match := _FOUND.search(found):
            return chain.claimed(Outcome(match[1]))
        adapters = self.context.adapters
        assert adapters is not None
        if adapters.resolver is None:
            raise RuntimeError("modify.arc needs a resolver")
        return await verified(chain, message, adapters.resolver, adapters)
