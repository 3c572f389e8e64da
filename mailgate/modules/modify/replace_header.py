"""`modify.replace_header`: one field in place of all of its name."""

from __future__ import annotations

from mailgate.message.fields import with_one
from mailgate.modules.modify._fields import OneField


class ReplaceHeader(OneField):
    """Puts a field in the place of the first of its name and takes the others out; without one it is added."""

    name = "modify.replace_header"
    written = staticmethod(with_one)
