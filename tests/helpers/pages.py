"""What every page is held to."""

from __future__ import annotations

from html.parser import HTMLParser


class Tags(HTMLParser):
    """Collects what a page would fetch, and checks that tags close in order."""

    VOID = {"meta", "link", "img", "source", "br", "input"}

    def __init__(self) -> None:
        super().__init__()
        self.open, self.fetched = [], []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
