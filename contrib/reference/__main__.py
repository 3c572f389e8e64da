"""python -m contrib.reference: write every generated file anew (`make docs`)."""

from __future__ import annotations

from contrib.reference import ROOT, generated

wanted = generated()
for path in sorted({*(ROOT / "docs" / "reference").glob("*.md"), *(ROOT / "docs" / "man").glob("*.[15]")} - set(wanted)):
    path.unlink()
for path, text in wanted.items():
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
        print(path.relative_to(ROOT))
