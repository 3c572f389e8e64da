"""What a client hears before its first message, dry: `refuse_clients`, what checks say of connection, TLS and login, and whether
it must have logged in.

What a dry run does not know is left out: early talk, and limits, which are a matter of what else comes. The session is the one
that the question gives, so its TLS and its login are judged at once, in the order in which they would come.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mailgate.message.envelope import Session
from mailgate.pipeline.lookup import Kept
from mailgate.pipeline.rehearsal import double_of
from mailgate.pipeline.router import place
from mailgate.pipeline.session_checks import SessionChecks
from mailgate.pipeline.trace import listened
from mailgate.pipeline.trace_tree import Kind, Node, check_node, heading
from mailgate.smtp.reply import MailError, Reply, TemporaryError


async def receive(listener: Any, session: Session, root: Node, may_ask: frozenset[Kept]) -> MailError | None:
    """The refusal, and what was asked as children of ``root``. What checks keep of the session is there for its messages, until
    `session_checks.close`."""

    def note(check: Any, stage: str, verdict: object) -> None:
        root.children.append(check_node(check, stage, verdict))

    def listen(check: Any, stage: str, ask: Callable[[], Any]) -> Any:
        return listened(check, stage, ask, note)

    try:
        await _refuse_clients(listener, session, root)
        checks = SessionChecks([double_of(check, may_ask) for check in listener.router.session_checks], listen)
        await checks.ask("connection", session)
        if session.tls is not None:
            await checks.ask("tls", session)
        if session.auth_user:
            await checks.ask("auth", session)
        elif getattr(listener, "login_required", False):
            where = listener.span_of("auth_required") or listener.span
            raise MailError(Reply(530, "5.7.0", listener.auth_required_message), "auth_required", place(where))
    except MailError as refusal:
        return refusal
    except Exception as error:
        return TemporaryError("Internal error", code=421, reason=f"{type(error).__name__}: {error}")
    return None


async def _refuse_clients(listener: Any, session: Session, root: Node) -> None:
    for span, ask in listener.client_rules():
        answer = ask(session)
        refused = answer if answer is None or isinstance(answer, Reply) else await answer
        reason = str(refused) if refused is not None else f"not {session.client_ip or 'a unix socket'}"
        root.children.append(Node(Kind.CHECK, heading(span), place(span), reason, refused is None))
        if refused is not None:
            raise MailError(refused, "refuse_clients", place(span))
