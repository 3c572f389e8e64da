"""What tests use that PyPy, or an environment made for it, has not."""

from importlib.util import find_spec
from unittest import skipUnless

needs_nacl = skipUnless(find_spec("nacl"), "dkimpy signs and verifies Ed25519 with PyNaCl only, which has no wheel for PyPy")
needs_tracemalloc = skipUnless(find_spec("_tracemalloc"), "memory is traced by CPython only")
