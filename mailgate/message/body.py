"""The content of one message: in memory up to a limit, then in an unlinked temporary file.

`Body` is filled by the listener piece by piece with clean content (dots unstuffed, CRLF line ends, see smtp/framing.py) and
read as often as needed: by checks, by a delivery, by its replay on the next endpoint. The header section always stays in
memory (it is bounded by max_header_size). File work runs in the thread pool; `append` returns a Deferred while the
disk is behind, and the listener stops reading until it fires. All bodies of a process together take at most the
`Spool`'s limit of disk (body_spool_limit): beyond it `append` raises `SpoolFull`, which is 452 4.3.1.
"""

from __future__ import annotations
