"""The words of a pipeline (docs/configuration.md, "Pipelines"), declared block by block.

    pipeline  := (check | modify)* (when EXPR {pipeline})*  (handling | rcpts | sources)
    sources   := (source_in TABLE {srcblock} | source RULE+ {srcblock})* default_source {srcblock}
    srcblock  := (check | modify)* (when EXPR {srcblock})*  (handling | rcpts)
    rcpts     := (destination_in TABLE {rcptblock} | destination RULE+ {rcptblock})* default_destination {rcptblock}
    rcptblock := (check | modify)* (when EXPR {rcptblock})*  handling
    handling  := deliver_to TARGET+ | reroute {pipeline} | after_body {pipeline} | reject [CODE] | discard

A listener's class is `PipelineBlock` with the listener's own directives beside it; `reroute` and `msgpipeline` hold
`PipelineRules`; `after_body` holds the same words as `ContentPipeline`, whose conditions see the content. Which of the
alternatives stands in a block, and whether it is whole, is judged by compile.py, which walks ``items`` in written order.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from mailgate.config import values as v
from mailgate.config.schema import Block, Directive, Refused
from mailgate.pipeline.conditions import AFTER_BODY, AFTER_BODY_RCPT, AT_MAIL, AT_RCPT

IS_HERE: Any = Refused("after_body", "the content has come already: what is decided by it is written right here")


class Split(Enum):
    """What happens to a recipient that needs a further irrevocable answer (docs/architecture.md, "Delivering once")."""

    DEFER = "defer"
    ALLOW = "allow"
    QUEUE = "queue"


class HandlingBlock(Block):
    """What every block of a pipeline may hold: checks, modifiers, and what becomes of the mail."""

    check = Directive("check", v.ModuleList("check"), repeatable=True, doc="Checks to pass, in this order.", origin="maddy")
    modify = Directive(
        "modify", v.ModuleList("modify"), repeatable=True, doc="Modifiers to apply, in this order.", origin="maddy"
    )
    deliver_to = Directive(
        "deliver_to",
        v.ModuleLine("target"),
        repeatable=True,
        doc="Deliver to this target. Several are copies: at most one of them may be anything but a queue.",
        origin="maddy",
    )
    reject = Directive(
        "reject",
        v.ReplyCode(),
        repeatable=True,
        doc="Refuse: code, enhanced code and text, each optional; 550 5.7.1 without any.",
        origin="maddy",
    )
    discard = Directive("discard", v.Nothing(), repeatable=True, doc="Accept and throw away; each one is logged.")
    reroute = Directive(
        "reroute",
        block="PipelineRules",
        block_required=True,
        repeatable=True,
        doc="Pass the rewritten envelope through another pipeline.",
        origin="maddy",
    )
    copy_to = Directive(
        "copy_to",
        v.ReferenceTo("target"),
        repeatable=True,
        doc="Beside deliver_to or reroute: what is accepted goes into this queue too. A copy that fails is logged, and changes no"
        " answer.",
    )
    after_body = Directive(
        "after_body",
        block="ContentPipeline",
        block_required=True,
        repeatable=True,
        doc='Decide when the content has come and its checks are done: a pipeline whose conditions see size, header("NAME"),'
        " verdict, score and quarantined. All it delivers to are queues, or it is always the same target.",
    )


class RecipientBlock(HandlingBlock):
    """What becomes of the recipients that a rule matches."""

    when = Directive(
        "when",
        AT_RCPT,
        block="RecipientBlock",
        block_required=True,
        repeatable=True,
        doc="A block for the recipients for whom the condition is true; the first such block is taken instead of the rest.",
    )


class SourceBlock(HandlingBlock):
    """What becomes of mail from the senders that a rule matches."""

    when = Directive(
        "when",
        AT_MAIL,
        block="SourceBlock",
        block_required=True,
        repeatable=True,
        doc="A block for mail for which the condition is true at MAIL; the first such block is taken instead of the rest.",
    )

    destination_in = Directive(
        "destination_in",
        v.ModuleLine("table", block="directive"),
        block=RecipientBlock,
        block_required=True,
        repeatable=True,
        doc="Recipients whose full address is a key of this table. Tables are asked first, in this order.",
        origin="maddy",
    )
    destination = Directive(
        "destination",
        v.Strings("RULE"),
        block=RecipientBlock,
        block_required=True,
        repeatable=True,
        doc="Recipients by address, domain, .domain (its sub-domains) or postmaster.",
        origin="maddy",
    )
    default_destination = Directive(
        "default_destination",
        block=RecipientBlock,
        block_required=True,
        repeatable=True,
        doc="Recipients that no other rule matches.",
        origin="maddy",
    )


class PipelineRules(SourceBlock):
    """A pipeline: rules for senders and recipients, and what becomes of their mail."""

    when = Directive(
        "when",
        AT_MAIL,
        block="PipelineRules",
        block_required=True,
        repeatable=True,
        doc="A pipeline for mail for which the condition is true at MAIL; the first such block is taken instead of the rest.",
    )

    source_in = Directive(
        "source_in",
        v.ModuleLine("table", block="directive"),
        block=SourceBlock,
        block_required=True,
        repeatable=True,
        doc='Senders whose full address ("" for the null sender) is a key of this table. Tables are asked first, in this order.',
        origin="maddy",
    )
    source = Directive(
        "source",
        v.Strings("RULE"),
        block=SourceBlock,
        block_required=True,
        repeatable=True,
        doc="Senders by address, domain, .domain (its sub-domains) or <> (the null sender).",
        origin="maddy",
    )
    default_source = Directive(
        "default_source",
        block=SourceBlock,
        block_required=True,
        repeatable=True,
        doc="Senders that no other rule matches.",
        origin="maddy",
    )


class ContentRecipientBlock(RecipientBlock):
    """What becomes of the recipients that a rule matches, when the content is here."""

    when = RecipientBlock.when.within("ContentRecipientBlock", AFTER_BODY_RCPT)
    reroute = RecipientBlock.reroute.within("ContentPipeline")
    after_body = IS_HERE


class ContentSourceBlock(SourceBlock):
    """What becomes of mail from the senders that a rule matches, when the content is here."""

    when = SourceBlock.when.within("ContentSourceBlock", AFTER_BODY)
    reroute = SourceBlock.reroute.within("ContentPipeline")
    after_body = IS_HERE
    destination_in = SourceBlock.destination_in.within(ContentRecipientBlock)
    destination = SourceBlock.destination.within(ContentRecipientBlock)
    default_destination = SourceBlock.default_destination.within(ContentRecipientBlock)


class ContentPipeline(PipelineRules):
    """A pipeline that is passed when the content is here: what `after_body` holds."""

    when = PipelineRules.when.within("ContentPipeline", AFTER_BODY)
    reroute = PipelineRules.reroute.within("ContentPipeline")
    after_body = IS_HERE
    destination_in = PipelineRules.destination_in.within(ContentRecipientBlock)
    destination = PipelineRules.destination.within(ContentRecipientBlock)
    default_destination = PipelineRules.default_destination.within(ContentRecipientBlock)
    source_in = PipelineRules.source_in.within(ContentSourceBlock)
    source = PipelineRules.source.within(ContentSourceBlock)
    default_source = PipelineRules.default_source.within(ContentSourceBlock)


class PipelineBlock(PipelineRules):
    """The pipeline of a listener."""

    on_split = Directive(
        "on_split",
        v.OneOf({"defer": v.Nothing(), "allow": v.Nothing(), "queue": v.ReferenceTo("target")}),
        doc="What happens to a recipient that needs a further irrevocable answer: its client is told to send it separately"
        " (`defer`, the default); all are tried at once, and what is not taken is kept in this queue (`queue &NAME`); or all are"
        " tried at once, which may double mail (`allow`).",
    )

    relay_from = Directive(
        "relay_from",
        v.List(v.Network()),
        default=(),
        doc="Clients that may send to any domain; others that have not logged in hear 550 5.7.1 for a recipient outside of"
        " local_domains. Clients on unix sockets are not asked.",
    )

    @property
    def split(self) -> Split:
        return Split(self.on_split.word) if self.on_split is not None else Split.DEFER

    @property
    def split_queue(self) -> Any:
        """The target that `on_split queue` names, or None."""
        return self.on_split.value if self.split is Split.QUEUE else None
