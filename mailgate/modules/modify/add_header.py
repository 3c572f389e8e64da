"""`modify.add_header`: one more field."""

from __future__ import annotations

from mailgate.message.fields import with_field
from mailgate.modules.modify._fields import OneField


class AddHeader(OneField):
    """Adds a field behind all others, whether or not there is one of that name."""

    name = "modify.add_header"
    written = staticmethod(with_field)
