"""Imports go down only: the floors of docs/architecture.md, read from the syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

PACKAGE = Path(__file__).parents[2] / "mailgate"

FLOORS = [
    {"interfaces", "values", "interpreter", "sqlite"},
    {"smtp"},
    {"config"},
    {"registry"},
    {"dns", "tls", "limits", "clients", "mailauth", "message", "passwords", "net", "events", "adapters", "logs"},
    {"outbound"},
    {"pipeline", "queue"},
    {"inbound", "modules"},
    {"runtime"},
    {"workers"},
    {"admin"},
    {"service"},
    {"work"},
    {"cli"},
]
"""From the ground up. A room may import what is below its floor, and itself."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

SHARED = {"net", "events", "adapters"}
"""Usable from the floor of `message` upward, neighbours included."""
ALLOWED = {
    ("registry", "adapters"),  # a module's context names the outside world's type
    ("tls", "message"),  # what is known of a handshake is a record of the session (message/envelope.py)
}
PURE = {"smtp", "message", "mailauth", "passwords", "registry", "config", "interfaces", "values", "interpreter", "sqlite"}
"""Never import Twisted."""
REACTOR = {"service", "workers", "work", "cli"}
"""May import the global reactor."""
MAX_LINES = 600


def room_of(module: str) -> str:
    """``mailgate.smtp.reply`` → ``smtp``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def sources() -> list[tuple[Path, str]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        found.append((path, name.removesuffix(".__init__")))
    return found


def imports(path: Path, module: str) -> list[tuple[int, str]]:
    """Everything that the file imports, anywhere in it, but not what only type checkers see."""
    tree = ast.parse(path.read_text(), str(path))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            found.append((node.lineno, base))
            if base in ("mailgate", "twisted.internet"):
                found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def is_downward(importer: str, imported: str) -> bool:
    """Whether a room may import another."""
    if importer == imported or (importer, imported) in ALLOWED:
        return True
    if importer not in FLOOR or imported not in FLOOR:
        return False
    if imported in SHARED and FLOOR[importer] >= FLOOR["message"]:
        return True
    return FLOOR[imported] < FLOOR[importer]


class FloorTests(SynchronousTestCase):
    def test_rules_catch_what_they_should(self) -> None:
        self.assertTrue(is_downward("pipeline", "message"))
        self.assertTrue(is_downward("message", "net"))
        self.assertFalse(is_downward("pipeline", "modules"))
        self.assertFalse(is_downward("queue", "pipeline"))
        self.assertFalse(is_downward("smtp", "events"))
        self.assertFalse(is_downward("inbound", "modules"))
        self.assertFalse(is_downward("inbound", "testing"))
        self.assertFalse(is_downward("config", "registry"))

    def test_imports_go_down(self) -> None:
        wrong = []
        for path, module in sources():
            importer = room_of(module)
            if importer in ("", "testing"):
                continue
            for line, imported in imports(path, module):
                if imported.startswith("mailgate.") and not is_downward(importer, room_of(imported)):
                    wrong.append(f"{path.relative_to(PACKAGE.parent)}:{line}: {importer} imports {imported}")
        self.assertEqual(wrong, [])

    def test_every_room_has_a_floor(self) -> None:
        rooms = {room_of(module) for _path, module in sources()} - {"", "testing", "__main__"}
        self.assertEqual(rooms - set(FLOOR), set())

    def test_the_pure_rooms_know_nothing_of_twisted(self) -> None:
        wrong = [
            f"{path.relative_to(PACKAGE.parent)}:{line}: {imported}"
            for path, module in sources()
            if room_of(module) in PURE
            for line, imported in imports(path, module)
            if imported.split(".")[0] == "twisted"
        ]
        self.assertEqual(wrong, [])

    def test_the_global_reactor_is_imported_at_the_top_only(self) -> None:
        wrong = [
            f"{path.relative_to(PACKAGE.parent)}:{line}"
            for path, module in sources()
            if room_of(module) not in REACTOR
            for line, imported in imports(path, module)
            if imported in ("twisted.internet.reactor", "twisted.internet.endpoints.reactor")
        ]
        self.assertEqual(wrong, [])

    def test_files_stay_readable(self) -> None:
        long = {
            str(path.relative_to(PACKAGE.parent)): count
            for path, _module in sources()
            if (count := path.read_text().count("\n")) > MAX_LINES
        }
        self.assertEqual(long, {})
