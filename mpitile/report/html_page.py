"""One HTML page that needs nothing but itself: text, tables, and pictures inside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from mpitile.report.figures import Picture, render

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 62em;
       margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; margin-bottom: 0.2em; }
h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { text-align: left; padding: 0.15em 1.2em 0.15em 0; vertical-align: top; }
th { font-weight: normal; color: #666; }
figure { margin: 1.2em 0; }
figure img { max-width: 100%; height: auto; }
figcaption { color: #555; font-size: 0.9em; max-width: 50em; }
.state { color: #555; margin-top: 0; }
"""


@dataclass(frozen=True)
class Photograph:
    """A picture that is a file's bytes already: its form, such as "png", and a line on it."""

    form: str
    content: bytes
    caption: str


@dataclass(frozen=True)
class Section:
    """Part of a page: a heading, pictures and photographs, or a sentence instead of them."""

    title: str
    pictures: tuple[Picture | Photograph, ...] = ()
    text: str = ""


def page(
    title: str,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    state: str = "",
    drawn: Mapping[str, bytes] | None = None,
) -> str:
    """The page.

    Parameters
    ----------
    facts : names and values of the table at its top.
    state : a line below the title.
    drawn : SVG files of pictures by name, where they have been made already.
    """
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>\n" for name, value in facts
    )
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8"/>',
        '<meta name="viewport" content="width=device-width"/>',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="state">{escape(state)}</p>' if state else "",
        f"<table>\n{rows}</table>" if rows else "",
        *(_section(section, drawn or {}) for section in sections),
        "</body>",
        "</html>",
    ]
    return "\n".join(filter(None, parts)) + "\n"


def _section(section: Section, drawn: Mapping[str, bytes]) -> str:
    lines = [f"<h2>{escape(section.title)}</h2>"]
    if section.text:
        lines.append(f"<p>{escape(section.text)}</p>")
    for picture in section.pictures:
        if isinstance(picture, Photograph):
            lines.append(_figure(f"image/{picture.form}", picture.content, "", picture.caption))
        else:
            content = drawn.get(picture.name) or render([picture], "svg")
            lines.append(_figure("image/svg+xml", content, picture.title, picture.caption))
    return "\n".join(lines)


def _figure(kind: str, content: bytes, title: str, caption: str) -> str:
    data = base64.b64encode(content).decode("ascii")
    alternative = escape(title or caption, quote=True)
    return (
        f'<figure>\n<img alt="{alternative}" src="data:{kind};base64,{data}"/>\n'
        f"<figcaption>{escape(caption)}</figcaption>\n</figure>"
    )
