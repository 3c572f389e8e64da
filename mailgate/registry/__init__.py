"""Names the language knows, and what they stand for.

A *module* is a `Module` subclass: a block with a name and a life (module.py). Built-in ones are found by folder (``target.smtp``
is the class of that name in mailgate/modules/target/smtp.py) and imported when named, a third party's by the entry-point group
``mailgate.modules``; the few top-level words without a namespace stand in `WORDS` (catalogue.py).

`build` makes a `Configuration` of a file (assembly.py): parse, check, make every instance, resolve references, let each configure
itself. It reads files and does nothing else, and says everything that is wrong at once.
"""

from mailgate.config.diagnostics import Report
from mailgate.config.schema import DEFAULTS, REQUIRED, Argument, Block, Directive, Refused
from mailgate.registry.assembly import Built, Configuration, build
from mailgate.registry.catalogue import WORDS, Unavailable, find, known_names
from mailgate.registry.module import Checks, Globals, Group, Modifiers, Module, ModuleContext

__all__ = [
    "DEFAULTS",
    "REQUIRED",
    "WORDS",
    "Argument",
    "Block",
    "Built",
    "Checks",
    "Configuration",
    "Directive",
    "Globals",
    "Group",
    "Modifiers",
    "Module",
    "ModuleContext",
    "Refused",
    "Report",
    "Unavailable",
    "build",
    "find",
    "known_names",
]
