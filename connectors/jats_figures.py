"""Figure elements → rows of `figure` and the index that mentions are resolved with."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from lxml import etree

from medloom.connectors.figures import FIG, FigureIndex, Label, Panel, declared_panels, read_label
from medloom.connectors.inline_text import NAMES, plain_text
from medloom.connectors.jats_text import XLINK_HREF, XML_LANG, FigureElement, Paragraph, Walk
from medloom.connectors.licences import figure_terms
from medloom.schemas.keys import figure_key

_THUMBNAIL = re.compile(r"thumb|\d+x\d+|small", re.IGNORECASE)
_IMAGE_SUFFIX = re.compile(r"\.(?:tiff?|png|jpe?g|gif|eps|svg|bmp|webp|pdf)$", re.IGNORECASE)


@dataclass
class FigureRows:
    """Rows of `figure` in document order, and what mentions need to know of them."""

    rows: list[dict[str, Any]]
    index: FigureIndex


def figure_rows(walk: Walk, *, lang: str) -> FigureRows:
    """Return the rows of the figures that `walk` met; `lang` chooses among the languages of one figure."""
    return _Builder(walk, lang, FigureIndex(walk.parents)).build()


@dataclass
class _Builder:
    walk: Walk
    lang: str
    index: FigureIndex
    rows: list[dict[str, Any]] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    media_keys: set[str] = field(default_factory=set)
    fig_keys: set[str] = field(default_factory=set)
    group_rows: dict[etree._Element, int] = field(default_factory=dict)
    last_number: dict[str, Label] = field(default_factory=dict)

    def build(self) -> FigureRows:
        for position, figure in enumerate(self.walk.figures):
            self._add(position, figure)
        for position in range(len(self.rows)):
            self._index(position)
        for position, label in enumerate(self.labels):
            self._link(position, label)
        return FigureRows(self.rows, self.index)

    def _add(self, position: int, figure: FigureElement) -> None:
        parts = self._in_language(figure.merged) if figure.merged else [figure.element]
        shown = parts[:1] if _same_figure(parts) else parts
        label_text = plain_text(_child(figure.element, "label")) or plain_text(_child(parts[0], "label"))
        label = self._numbered(read_label(label_text), figure)
        xml_id = figure.element.get("id") or ""
        key = f"{self.walk.article_key}/{figure.place.scope}/{xml_id or position}"
        fig_key = key if key not in self.fig_keys else f"{key}|{position}"
        self.fig_keys.add(fig_key)
        lines = [
            self.walk.paragraphs[i] for part in self._captioned(figure, shown) for i in figure.caption.get(part, [])
        ]
        title = next((line.row["text"] for line in lines if line.tag == "title"), "")
        paras = [line.row["text"] for line in lines if line.tag != "title"]
        caption = "\n".join(filter(None, [title, *paras]))
        panels = declared_panels(caption, _bold_spans(lines))
        override, terms_id = figure_terms(*_own_terms(figure.element, parts, caption))
        group = figure.group if figure.group is not None else None
        if figure.element is group and not figure.merged:
            self.group_rows[figure.element] = position
        self.labels.append(label)
        self.index.panels[position] = _without_gaps(p.letter for p in panels if len(p.letter) <= 2)
        self.rows.append({
            "article_key": self.walk.article_key, "fig_key": fig_key, "xml_id": xml_id,
            "scope_id": figure.place.scope, "order": position, "label": label_text, "numbers": list(label.numbers),
            "group_id": (group.get("id") or "") if group is not None else "", "parent_fig": "", "caption_title": title,
            "caption_paras": paras, "caption": caption, "panels": [_panel_row(p, caption) for p in panels],
            "media": self._media(parts, fig_key, xml_id, len(shown) == 1), "licence_override": override,
            "terms_id": terms_id, "kind": _kind(figure, label),
        })  # fmt: skip

    def _captioned(self, figure: FigureElement, shown: list[etree._Element]) -> list[etree._Element]:
        return [figure.element, *shown] if figure.element not in shown else shown

    def _in_language(self, merged: list[etree._Element]) -> list[etree._Element]:
        """Order the copies of a figure: the article's language first, else as they stand."""
        return sorted(merged, key=lambda e: not self.lang or not (e.get(XML_LANG) or "").lower().startswith(self.lang))

    def _numbered(self, label: Label, figure: FigureElement) -> Label:
        """Give a figure that is only a panel ("(b)") the number of its group, or of the label before it."""
        scope = figure.place.scope
        if label.panel and not label.numbers:
            before = self.last_number.get(scope, Label())
            group = read_label(plain_text(_child(figure.group, "label"))) if figure.group is not None else Label()
            known = group if group.numbers else before
            return Label(known.series or FIG, known.numbers, label.panel)
        if label.numbers:
            self.last_number[scope] = label
        return label

    def _index(self, position: int) -> None:
        figure, label, row = self.walk.figures[position], self.labels[position], self.rows[position]
        scope = figure.place.scope
        is_group = self.group_rows.get(figure.element) == position
        if row["xml_id"] and not is_group:
            self.index.ids.setdefault((scope, row["xml_id"]), (position,))
        if figure.group is not None and not is_group and figure.group.get("id") and not figure.merged:
            known = self.index.ids.get((scope, figure.group.get("id", "")), ())
            self.index.ids[scope, figure.group.get("id", "")] = (*known, position)
        if label.panel:
            self.index.own_panel[position] = label.panel
        for number in label.numbers:
            known = self.index.labels.get((scope, label.series, number), ())
            if is_group:
                continue
            if not known or label.panel:
                self.index.labels[scope, label.series, number] = (*known, position)

    def _link(self, position: int, label: Label) -> None:
        """Name the parent of a supplement ("1s2" of "1") and of a panel."""
        scope = self.walk.figures[position].place.scope
        parents: tuple[int, ...] = ()
        group = self.walk.figures[position].group
        if label.numbers and "s" in label.numbers[0]:
            parents, _ = self.index.by_label(scope, FIG, label.numbers[0].partition("s")[0])
        elif group is not None and group in self.group_rows and self.group_rows[group] != position:
            parents = (self.group_rows[group],)
        elif label.panel:
            found, _ = self.index.by_label(scope, label.series, label.numbers[0]) if label.numbers else ((), True)
            parents = tuple(p for p in found if p not in self.index.own_panel)
        if parents and parents[0] != position:
            self.rows[position]["parent_fig"] = self.rows[parents[0]]["fig_key"]

    def _media(self, parts: list[etree._Element], fig_key: str, xml_id: str, copies: bool) -> list[dict[str, str]]:
        """Return a row per graphic: different ones have keys of their own, forms of one share its key."""
        media: list[dict[str, str]] = []
        seen: dict[str, str] = {}
        for number, forms in enumerate(_graphics(parts, copies)):
            suffix = f"-{number + 1}" if number else ""
            key = self._medium_key(f"{xml_id}{suffix}" if xml_id else "", f"{fig_key}{suffix}")
            main = next((h for h, role in forms if role == ""), forms[0][0])
            for href, role in forms:
                if href not in seen:
                    seen[href] = key
                    media.append(
                        {
                            "href": href,
                            "key": key,
                            "md5": "",
                            "role": "figure" if href == main else role or "alternative",
                        }
                    )
        return media

    def _medium_key(self, xml_id: str, fallback: str) -> str:
        key = figure_key(self.walk.article_key, xml_id, fallback=fallback)
        if key in self.media_keys:
            key = figure_key(self.walk.article_key, "", fallback=fallback)
        self.media_keys.add(key)
        return key


def _graphics(parts: list[etree._Element], copies: bool) -> list[list[tuple[str, str]]]:
    """Return the different graphics of a figure, each as its forms (href, role; "" for the picture itself)."""
    different: list[list[tuple[str, str]]] = []
    by_stem: dict[object, list[tuple[str, str]]] = {}
    for number, part in enumerate(parts):
        for graphic in _own_graphics(part):
            href = (graphic.get(XLINK_HREF) or graphic.get("href") or "").strip()
            if not href:
                continue
            parent = graphic.getparent()
            together: object = parent if parent is not None and NAMES[parent.tag] == "alternatives" else _stem(href)
            role = "alternative" if number and copies else _role(graphic)
            together = "copies" if copies and len(parts) > 1 else together
            if together not in by_stem:
                by_stem[together] = []
                different.append(by_stem[together])
            by_stem[together].append((href, role))
    return different


def _own_graphics(part: etree._Element) -> Iterator[etree._Element]:
    for child in part:
        name = NAMES[child.tag]
        if name == "graphic":
            yield child
        elif name not in ("caption", "fig", "permissions", "label") and len(child):
            yield from _own_graphics(child)


def _role(graphic: etree._Element) -> str:
    stated = f"{graphic.get('content-type') or ''} {graphic.get('specific-use') or ''}"
    if _THUMBNAIL.search(stated):
        return "thumbnail"
    return "alternative" if graphic.get("specific-use") else ""


def _stem(href: str) -> str:
    """Return what two formats of one picture share ("a/b.tif" and "a/b.jpg"); an id such as "x.g001" is whole."""
    return _IMAGE_SUFFIX.sub("", urlsplit(href).path if "://" in href else href)


def _same_figure(parts: list[etree._Element]) -> bool:
    """Whether the parts of a group are one figure in several languages (not its panels)."""
    if len(parts) == 1:
        return True
    labels = [read_label(plain_text(_child(part, "label"))) for part in parts]
    languages = {part.get(XML_LANG) for part in parts}
    return len(languages) == len(parts) and len({label.numbers for label in labels}) == 1


def _child(element: etree._Element | None, name: str) -> etree._Element | None:
    if element is None:
        return None
    return next((child for child in element if NAMES[child.tag] == name), None)


def _own_terms(element: etree._Element, parts: list[etree._Element], caption: str) -> tuple[str, str]:
    """Return (text of the figure's own permissions with their addresses, caption and attribution)."""
    permissions, credits = [], [caption]
    for part in {id(e): e for e in (element, *parts)}.values():
        for child in part:
            if NAMES[child.tag] == "permissions":
                urls = [e.get(XLINK_HREF) or "" for e in child.iter()]
                permissions += [" ".join(" ".join(map(str, child.itertext())).split()), *filter(None, urls)]
            elif NAMES[child.tag] in ("attrib", "copyright-statement"):
                credits.append(plain_text(child))
    return " ".join(permissions), ". ".join(filter(None, credits))


def _without_gaps(letters: Iterable[str]) -> frozenset[str]:
    """Return the panels that a caption must have which declares `letters`: those between them, too."""
    declared = frozenset(letters)
    plain = [letter for letter in declared if len(letter) == 1]
    return declared | {chr(c) for c in range(ord(min(plain)), ord(max(plain)))} if plain else declared


def _bold_spans(lines: list[Paragraph]) -> list[tuple[int, int]]:
    """Return the bold spans of caption paragraphs as offsets in the joined caption (its title stands first)."""
    ordered = [line for line in lines if line.tag == "title"][:1] + [line for line in lines if line.tag != "title"]
    spans, start = [], 0
    for line in ordered:
        spans += [(start + a, start + b) for a, b in line.bold]
        start += len(line.row["text"]) + 1
    return spans


def _panel_row(panel: Panel, caption: str) -> dict[str, Any]:
    return {"letter": panel.letter, "start": panel.start, "end": panel.end, "text": caption[panel.start : panel.end]}


def _kind(figure: FigureElement, label: Label) -> str:
    """Return "figure", "supplement", "panel", "group", "video", or the label's own word ("scheme", "chart")."""
    if label.panel:
        return "panel"
    if figure.group is figure.element and not figure.merged:
        return "group"
    if label.numbers and ("s" in label.numbers[0] or label.numbers[0].startswith("S")):
        return "supplement"
    if not label.series or label.series == FIG:
        if next(figure.element.iter("{*}graphic"), None) is not None:
            return "figure"
        return "figure" if next(figure.element.iter("{*}media"), None) is None else "video"
    return label.series
