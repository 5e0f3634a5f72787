"""HTML in one file: a page that loads nothing and runs nothing, and its tables."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

# Nothing is fetched and no script is run, whatever a file or a patient may be called.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def make_page(title: str, body: Iterable[str], *, style: str) -> str:
    """Return a whole page.

    Args:
        title: Plain text.
        body: HTML, line by line; what comes from outside is escaped in it.
        style: CSS that refers to no other file.
    """
    lines = "\n".join(body)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{lines}\n</body>\n</html>\n"
    )


def make_table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, align: str) -> Iterator[str]:
    """Yield a table of plain text, which is escaped.

    Args:
        titles: Of the columns, (n,).
        rows: Cells, (n,) each.
        align: One letter a column, (n,): l is left, r right, m left and marked as a warning.
    """
    classes = [_CLASSES[letter] for letter in align]
    yield '<div class="wide"><table>'
    if any(titles):
        yield f"<thead><tr>{_cells('th', titles, classes)}</tr></thead>"
    yield "<tbody>"
    for row in rows:
        yield f"<tr>{_cells('td', row, classes)}</tr>"
    yield "</tbody></table></div>"


_CLASSES = {"l": "", "r": ' class="number"', "m": ' class="mark"'}


def _cells(tag: str, texts: Sequence[str], classes: Sequence[str]) -> str:
    return "".join(f"<{tag}{each}>{escape(text)}</{tag}>" for text, each in zip(texts, classes, strict=True))
