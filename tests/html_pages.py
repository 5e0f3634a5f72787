"""Reads a page as a browser would, and refuses what a browser would have to guess."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """A page's tags, identifiers and text; tags that are not closed in order are refused."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), (tag, names)
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open[-1:] == [tag], (self._open, tag)
        self._open.pop()

    def handle_data(self, data):
        if self._open[-1:] != ["style"]:
            self.text.append(data)

    def all_of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def values(self, *names: str) -> list[str]:
        return [str(value) for _, attributes in self.tags for name, value in attributes.items() if name in names]

    @property
    def words(self) -> str:
        """All text, with one space between words."""
        return " ".join(" ".join(self.text).split())
