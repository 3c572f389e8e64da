"""Coroutines that cost nothing while nothing waits: `begin`, under the name that the pipeline and its modules know it by.

The pipeline is written as coroutines throughout, so that there is one copy of it whether tables, checks and next hops answer
at once or not.
"""

from mailgate.net.waiting import begin

__all__ = ["begin"]
