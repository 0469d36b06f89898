"""A browser without scripts: it keeps cookies, follows redirects and submits the forms of pages."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import requests


@dataclass
class Form:
    """A form of a page. fields: the values it sends unchanged. buttons: their texts."""

    action: str
    method: str
    # The last heading above the form.
    heading: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[str] = field(default_factory=list)


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.headings: list[str] = []
        self.words: list[str] = []
        self._form: Form | None = None
        # The name of the open element whose text is collected apart, and its text.
        self._open = ""
        self._text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            heading = self.headings[-1] if self.headings else ""
            self._form = Form(given.get("action", ""), given.get("method", "get"), heading)
            self.forms.append(self._form)
        elif tag == "input" and self._form and given.get("name"):
            is_sent = given.get("type") not in {"checkbox", "radio"} or "checked" in given
            if is_sent:
                self._form.fields[given["name"]] = given.get("value", "")
        elif tag in {"button", "h1", "h2", "script", "style"}:
            self._open, self._text = tag, ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None
        if tag != self._open:
            return
        self._open, text = "", " ".join(self._text.split())
        if tag == "button" and self._form:
            self._form.buttons.append(text)
        elif tag in {"h1", "h2"}:
            self.headings.append(text)

    def handle_data(self, data: str) -> None:
        self._text += data
        if self._open not in {"script", "style"}:
            self.words.append(data)


class Page:
    """A page in a browser profile of its own: what it says, and where it is."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._session = requests.Session()
        self._session.trust_env = False
        self._show(None)

    def _show(self, response: requests.Response | None) -> None:
        self.url = response.url if response is not None else self._home
        self.status = response.status_code if response is not None else 0
        parser = _Parser()
        parser.feed(response.text if response is not None else "")
        self.headings = parser.headings
        self.text = " ".join("".join(parser.words).split())
        self._forms = parser.forms

    @property
    def path(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    def goto(self, url: str) -> None:
        self._show(self._session.get(urljoin(self._home, url), timeout=30))

    def press(self, button: str, *, below: str = "", **fields: str) -> None:
        """Submit the form with this button, with `fields` filled in.

        below: the heading over the form, if several forms have such a button.
        """
        [form, *_same] = [
            form for form in self._forms if button in form.buttons and below in {"", form.heading}
        ]
        assert form.method == "post"
        assert fields.keys() <= form.fields.keys(), f"{self.url} has no such field"
        self.post(urljoin(self.url, form.action), {**form.fields, **fields})

    def post(self, url: str, fields: dict[str, str]) -> None:
        here = urlsplit(self.url)
        origin = f"{here.scheme}://{here.netloc}"
        self._show(self._session.post(url, data=fields, headers={"Origin": origin}, timeout=30))
