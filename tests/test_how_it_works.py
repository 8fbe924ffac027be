"""docs/how-it-works.md does what it says, and its pictures are those of its networks."""

from __future__ import annotations

from docs.make_pictures import PAGE, pictures, run_page


def test_the_page() -> None:
    names, outputs = run_page()
    assert len(outputs) == PAGE.read_text().count("```python") == 4
    for said, printed in outputs:
        assert printed == said
    drawn = pictures(names)
    assert [path.name for path in drawn] == ["residual.svg", "shuffle.svg"]
    for path, content in drawn.items():
        assert path.read_bytes() == content, "accept it with `python -m docs.make_pictures`"
