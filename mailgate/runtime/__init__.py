"""The running gateway: of one configuration (gateway.py), and through its reloads (live.py).

assembly.py makes configurations of the file, in a thread; generations.py says what of an old one is whose in a new one.
"""

from mailgate.inbound.ports import CannotBind
from mailgate.runtime.assembly import Assembler, Candidate
from mailgate.runtime.gateway import Gateway, Refusal
from mailgate.runtime.live import Companion, LiveGateway, Outcome, Verdict

__all__ = ["Assembler", "Candidate", "CannotBind", "Companion", "Gateway", "LiveGateway", "Outcome", "Refusal", "Verdict"]
