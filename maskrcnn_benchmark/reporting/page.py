"""The page of a report: one HTML file that contains its style sheet, script and images and needs no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskrcnn_benchmark.drawing import colour_variables, panel_svg
from maskrcnn_benchmark.drawing.marks import Panel

JPEG_QUALITY = 80
_FONT_SIZES_PER_CARD = 56  # width of a card in font sizes of its labels
LAYERS = {"box": "boxes", "mask": "masks", "skeleton": "skeletons", "label": "labels"}
DATASET_ORDER = "index:asc"

# Only what is in the file: the browser refuses to load anything else.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True)
class Kind:
    """A kind of marks, as a reader sees it.

    Attributes:
        title: name in the filters.
        sign: sign in front of the label, for readers who do not see the colour.
    """

    title: str
    sign: str = ""


@dataclass(frozen=True)
class Filters:
    """The filters that the page offers.

    Attributes:
        kinds: kind of mark (`drawing.marks`) -> its title and sign.
        categories: names of the classes.
        score: initial value of the score slider; None for no slider.
        lowest: left end of the slider.
        orders: "measure:asc", "measure:desc" or DATASET_ORDER -> name of the order; the first is the initial one.
    """

    kinds: Mapping[str, Kind] = field(default_factory=dict)
    categories: Sequence[str] = ()
    score: float | None = None
    lowest: float = 0.0
    orders: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """One image of the page.

    Attributes:
        title: heading.
        measure: line below the title; the script rewrites it in the same form.
        image: (H, W, 3) uint8 RGB.
        panels: the image with different marks; if empty, the image is shown as it is.
        index: index of the image in the data set.
        alt: alternative text of an image without panels.
    """

    title: str
    measure: str
    image: NDArray[np.uint8]
    panels: Sequence[Panel] = ()
    index: int = 0
    alt: str = ""


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table. The first cell of each row is its header."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def card_html(card: Card, number: int, filters: Filters, thumbnail: int) -> str:
    """An <article> of the page.

    Args:
        number: number of the card, unique in the page.
        thumbnail: longest side of the embedded image, in pixels.
    """
    uri = image_uri(card.image, thumbnail, "jpeg" if card.panels else "png")  # photographs as JPEG, plots as PNG
    if not card.panels:
        height, width = card.image.shape[:2]
        size = f'width="{width}" height="{height}"'
        figure = f'<figure><img src="{uri}" alt="{escape(card.alt or card.title)}" {size}></figure>'
        return f'<article class="card wide" id="card-{number}"><h2>{escape(card.title)}</h2>{figure}</article>\n'
    signs = {name: kind.sign for name, kind in filters.kinds.items()}
    figures = ""
    for position, panel in enumerate(card.panels):
        picture = panel_svg(
            panel,
            f"image-{number}",
            None if position else uri,
            font_size=max(panel.size_wh) * len(card.panels) / _FONT_SIZES_PER_CARD,
            score_threshold=filters.score or 0.0,
            signs=signs,
        )
        figures += f"<figure>{picture}<figcaption>{escape(panel.title)}</figcaption></figure>"
    button = '<button type="button" class="enlarge" aria-pressed="false">Enlarge</button>'
    return (
        f'<article class="card" id="card-{number}" data-index="{card.index}" style="--panels: {len(card.panels)}">'
        f'<div class="card-head"><h2>{escape(card.title)}</h2>{button}</div>'
        f'<p class="measure">{escape(card.measure)}</p><div class="panels">{figures}</div></article>\n'
    )


def page_html(
    title: str,
    lead: Sequence[str],
    cards: Sequence[str],
    *,
    tables: Sequence[str] = (),
    filters: Filters | None = None,
    after: Sequence[str] = (),
    measure: str = "count",
) -> str:
    """The whole page.

    Args:
        lead: paragraphs below the title.
        cards: HTML of `card_html`, in initial order.
        tables, after: HTML of `table`, below the lead and at the end of the page.
        filters: None for a page without filters.
        measure: what the script computes for each card, a key of its `measures`.
    """
    folder = Path(__file__).parent
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in lead)
    form = "" if filters is None else _form(filters, len(cards))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n:root {{ {colour_variables()}}}\n{style}</style>\n</head>\n<body>\n"
        f'<header><h1>{escape(title)}</h1>{paragraphs}<div class="tables">{"".join(tables)}</div></header>\n'
        f'{form}<main><div id="cards" data-measure="{measure}">\n{"".join(cards)}</div>{"".join(after)}</main>\n'
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )


def image_uri(image: NDArray[np.uint8], longest: int, kind: str = "jpeg") -> str:
    """(H, W, 3) uint8 RGB -> data URI of a "jpeg" or "png" whose longer side is at most `longest` pixels."""
    picture = Image.fromarray(image)
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, quality=JPEG_QUALITY, optimize=True)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _form(filters: Filters, count: int) -> str:
    parts = []
    if filters.categories:
        options = "".join(
            f'<option value="{escape(name)}">{escape(name)}</option>' for name in sorted(filters.categories)
        )
        parts.append(
            f'<label><span>Class</span><select name="class"><option value="">all</option>{options}</select></label>'
        )
    if filters.score is not None:
        parts.append(
            f'<label><span>Score from</span><input type="range" name="score" min="{filters.lowest:g}" max="1" '
            f'step="0.01" value="{filters.score:g}"><output name="shown_score">{filters.score:.2f}</output></label>'
        )
    if filters.kinds:
        boxes = "".join(
            f'<label><input type="checkbox" name="kinds" value="{name}" data-sign="{kind.sign}" checked>'
            f'<i class="swatch" data-kind="{name}"></i>{escape(f"{kind.sign} {kind.title}".strip())}</label>'
            for name, kind in filters.kinds.items()
        )
        parts.append(f"<fieldset><legend>Show</legend>{boxes}</fieldset>")
    layers = "".join(
        f'<label><input type="checkbox" name="layers" value="{name}" autocomplete="off" checked>{text}</label>'
        for name, text in LAYERS.items()
    )
    parts.append(f"<fieldset><legend>Draw</legend>{layers}</fieldset>")
    if filters.orders:
        options = "".join(f'<option value="{key}">{escape(text)}</option>' for key, text in filters.orders.items())
        parts.append(f'<label><span>Order</span><select name="order">{options}</select></label>')
    parts.append(
        '<label><span>Size</span><input type="range" name="size" min="280" max="1400" step="20" value="560"></label>'
    )
    status = f'<p id="status" role="status">Showing {count} of {count} images</p>'
    without = "<noscript><p>The filters need JavaScript; without it, all images are shown.</p></noscript>"
    return f'<form id="filters" aria-label="Filters" autocomplete="off">{"".join(parts)}{status}{without}</form>\n'
