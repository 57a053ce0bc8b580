"""A truth of its own for mentions, captions and graphics, read from the XML by other means, and how much of it we find.

The measures M1 to M5 as tests/connectors/test_alignment.py holds them to their limits and tests/bench/jats.py prints
them.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lxml import etree

from medloom.connectors.jats import parse_article

XLINK = "{http://www.w3.org/1999/xlink}href"
LANG = "{http://www.w3.org/XML/1998/namespace}lang"
EMBEDDED = (
    "fig fig-group table-wrap table-wrap-group fn fn-group supplementary-material list def-list disp-quote boxed-text "
    "statement verse-group speech disp-formula graphic inline-graphic media object-id table sec"
)
DROPPED = set(EMBEDDED.split())
JOINS = re.compile(r"^\s*(?:[-–—‐‑−]|to|through|a|até|bis|à)\s*$")

# Text says more than the ids here ("⟦Figures 2⟧ and 3", rid="fig2" on "Figure 2A/9D"): read by hand, right, and no
# part of a truth that is made of ids.
TOLD_BY_TEXT = {
    ("1807-1929_agriambi.v25n4p270-276.xml", "f3"), ("eLife.10421.xml", "fig7"), ("eLife.10421.xml", "fig9"),
}  # fmt: skip

Rows = dict[str, list[dict[str, Any]]]


def name(element: etree._Element) -> str:
    return etree.QName(element).localname if isinstance(element.tag, str) else ""


@cache
def articles(corpus: str) -> tuple[tuple[str, etree._Element, Rows], ...]:
    """Every article of the corpus: file, its XML read plainly, its rows."""
    found = []
    for path in sorted((Path(corpus) / "pmc" / "xml").glob("*.xml")):
        data = path.read_bytes()
        root = etree.fromstring(data, etree.XMLParser(resolve_entities=False, remove_comments=True, remove_pis=True))
        article = root if name(root) == "article" else next(root.iter("{*}article"))
        found.append((path.name, article, parse_article(data, source=path.name)))
    return tuple(found)


def letters_of(element: etree._Element) -> str:
    """The text of `element` without embedded blocks and without any white space."""

    def pieces(e: etree._Element) -> Iterator[str]:
        if name(e) in ("inline-formula", "math") and e.xpath(
            ".//*[local-name()='math'] | self::*[local-name()='math']"
        ):
            inner = e.xpath(".//*[local-name()='mi' or local-name()='mo' or local-name()='mn' or local-name()='mtext']")
            yield from ("".join(i.itertext()) for i in inner)
            return
        yield e.text or ""
        for child in e:
            if name(child) and name(child) not in DROPPED:
                yield from pieces(child)
            yield child.tail or ""

    return "".join("".join(pieces(element)).split())


def scope_of(element: etree._Element) -> etree._Element:
    return next(a for a in element.iterancestors() if name(a) in ("article", "sub-article", "response"))


def label_of(figure: etree._Element) -> str:
    return " ".join("".join(t for c in figure if name(c) == "label" for t in c.itertext()).split())


def number_of(label: str) -> tuple[str, int] | None:
    match = re.match(r"^(\D*?)\s*(\d+)\W*$", label)
    return (match[1].lower(), int(match[2])) if match else None


def targets(article: etree._Element, rids: list[str]) -> set[str]:
    """Ids of the figures that rids name; a group stands for its children with ids, else for itself."""
    found = set()
    for rid in rids:
        for element in article.xpath("//*[@id=$rid]", rid=rid):
            if name(element) == "fig":
                found.add(rid)
            elif name(element) == "fig-group":
                found |= {c.get("id") for c in element if name(c) == "fig" and c.get("id")} or {rid}
    return found


def filled(article: etree._Element, scope: etree._Element, first: str, last: str) -> set[str]:
    """Ids of the figures between two, by label, in the same scope and series."""
    figures = {f.get("id"): f for f in article.iter("{*}fig") if f.get("id")}
    a, b = (number_of(label_of(figures[i])) if i in figures else None for i in (first, last))
    if not a or not b or a[0] != b[0] or not 0 < b[1] - a[1] < 30:
        return set()
    wanted = {(a[0], n) for n in range(a[1] + 1, b[1])}
    return {
        i for i, f in figures.items() if scope_of(f) is scope_of(figures[first]) and number_of(label_of(f)) in wanted
    }


def true_pairs(article: etree._Element) -> Counter[tuple[str, str]]:
    pairs: set[tuple[int, str]] = set()
    texts: dict[int, str] = {}
    keep = []
    for xref in article.iter("{*}xref"):
        if xref.get("ref-type") != "fig":
            continue
        paragraph = next((a for a in xref.iterancestors() if name(a) == "p"), None)
        if paragraph is None:
            continue
        keep.append(paragraph)
        texts[id(paragraph)] = letters_of(paragraph)
        figures = targets(article, (xref.get("rid") or "").split())
        following = xref.getnext()
        while following is not None and name(following) == "xref" and not "".join(following.itertext()).strip():
            joined = (xref.tail or "") + (following.tail or "")
            if not JOINS.match(joined) or following.getnext() is None:
                break
            xref, following = following, following.getnext()
        if following is not None and name(following) == "xref" and following.get("ref-type") == "fig":
            between = xref.tail or ""
            ends = targets(article, (following.get("rid") or "").split())
            if JOINS.match(between) and len(ends) == 1 and len(figures) == 1:
                figures |= filled(article, scope_of(xref), next(iter(figures)), next(iter(ends)))
        pairs |= {(id(paragraph), figure) for figure in figures}
    return Counter((texts[p], figure) for p, figure in pairs)


def found_pairs(rows: Rows) -> Counter[tuple[str, str]]:
    texts = {p["par_id"]: "".join(p["text"].split()) for p in rows["paragraph"] if p["where"] != "title"}
    ids = {f["fig_key"]: f["xml_id"] for f in rows["figure"]}
    pairs = {
        (m["par_id"], ids[key])
        for m in rows["mention"]
        if m["method"] != "label_text" and m["par_id"] in texts
        for key in m["fig_keys"]
    }
    return Counter((texts[p], figure) for p, figure in pairs)


@dataclass
class Pairs:
    """M1: pairs of a paragraph and a figure; `told` are found pairs that only the text tells, and rightly."""

    true: int = 0
    found: int = 0
    both: int = 0
    told: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        recall, precision = self.both / self.true, self.both / self.found
        return (
            f"M1 {self.true} pairs, {self.found} found: recall {recall:.4f}, precision {precision:.4f}; with "
            f"{self.told} pairs that only the text tells counted as right: {(self.both + self.told) / self.found:.4f}"
        )


def measured_pairs(corpus: str) -> Pairs:
    """Lay the paragraphs that cite a figure against those whose cross-references do."""
    measured = Pairs()
    for file, article, rows in articles(corpus):
        expected, got = true_pairs(article), found_pairs(rows)
        in_paragraphs = {text for text, _ in expected}
        # Table cells and titles hold cross-references without a paragraph: not part of this truth.
        got = Counter({pair: n for pair, n in got.items() if pair[0] in in_paragraphs})
        measured.true += expected.total()
        measured.found += got.total()
        measured.both += (expected & got).total()
        measured.told += sum(n for (_, figure), n in (got - expected).items() if (file, figure) in TOLD_BY_TEXT)
        differing = list((expected - got).elements())[:3] + list((got - expected).elements())[:3]
        measured.wrong += [f"{file} {figure} {text[:80]}" for text, figure in differing]
    return measured


@dataclass
class Labelled:
    """M2 and M3: of the hand-labelled mentions, those with exactly the labelled figures, panels and so on."""

    mentions: int = 0
    figures: int = 0
    panels: int = 0
    sentences: int = 0
    qualifiers: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        n = self.mentions
        return (
            f"M2 {self.figures}/{n} figure sets, M3 {self.panels}/{n} panels; "
            f"{self.sentences}/{n} sentences, {self.qualifiers}/{n} qualifiers"
        )


def measured_labels(corpus: str) -> Labelled:
    """Lay our mentions that overlap a hand-labelled one against it."""
    rows_of = {file: rows for file, _, rows in articles(corpus)}
    measured = Labelled()
    for line in (Path(corpus) / "pmc" / "gold_mentions.jsonl").read_text().splitlines():
        label = json.loads(line)
        rows = rows_of[Path(label["file"]).name]
        paragraph = next(p for p in rows["paragraph"] if label["sentence"] in p["text"])
        start = paragraph["text"].index(label["sentence"]) + label["char_in_sentence"]
        end = start + len(label["mention_text"])
        ours = [
            m for m in rows["mention"] if m["par_id"] == paragraph["par_id"] and m["start"] < end and start < m["end"]
        ]
        ids = {f["fig_key"]: f["xml_id"] for f in rows["figure"]}
        exact = {ids[k] for m in ours for k in m["fig_keys"]} == set(label["expected_fig_ids"])
        exact_panels = {ids[k]: v for m in ours for k, v in m["panels"].items()} == label["expected_panels"]
        measured.mentions += 1
        measured.figures += exact
        measured.panels += exact_panels
        measured.sentences += any(paragraph["text"][m["sent_start"] : m["sent_end"]] == label["sentence"] for m in ours)
        measured.qualifiers += all(m["qualifier"] == label["expected_qualifier"] for m in ours)
        if not exact or not exact_panels:
            measured.wrong.append(f"{label['file']} {label['mention_text']} {ours}")
    return measured


def parts_of(figure: etree._Element) -> list[etree._Element]:
    return [part for caption in figure if name(caption) == "caption" for part in caption]


def main_graphic(figure: etree._Element) -> str:
    """The href of the first graphic that is no thumbnail and no derivative."""
    graphics = figure.xpath("./*[not(local-name()='caption')]/descendant-or-self::*[local-name()='graphic']")
    stated = [g for g in graphics if g.get(XLINK)]
    plain = [g for g in stated if not g.get("specific-use") and "thumb" not in (g.get("content-type") or "")]
    return (plain or stated)[0].get(XLINK).strip() if stated else ""


def true_figures(article: etree._Element) -> Iterator[tuple[str, etree._Element]]:
    language = (article.get(LANG) or "").lower()[:2]
    for figure in article.iter("{*}fig"):
        group = figure.getparent()
        if figure.get("id") or group is None or name(group) != "fig-group":
            yield figure.get("id") or "", figure
            continue
        copies = [c for c in group if name(c) == "fig"]
        if any(c.get("id") for c in copies):
            yield "", figure
        elif figure is next((c for c in copies if (c.get(LANG) or "").lower().startswith(language)), copies[0]):
            yield group.get("id") or "", figure


@dataclass
class Figures:
    """M4: captions whose text is exact, and figures whose graphic is the right one; "strange" names other figures."""

    captions: int = 0
    right_captions: int = 0
    graphics: int = 0
    right_graphics: int = 0
    strange: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"M4 captions {self.right_captions}/{self.captions}, graphics {self.right_graphics}/{self.graphics}, "
            f"{len(self.strange)} articles with other figures"
        )


def measured_figures(corpus: str) -> Figures:
    """Lay captions and graphics against those of the XML."""
    measured = Figures()
    for file, article, rows in articles(corpus):
        true = list(true_figures(article))
        if sorted(i for i, _ in true) != sorted(f["xml_id"] for f in rows["figure"]):
            measured.strange.append(file)
            continue
        ours: dict[str, list[dict[str, Any]]] = {}
        for row in rows["figure"]:
            ours.setdefault(row["xml_id"], []).append(row)
        for xml_id, figure in true:
            row = ours[xml_id].pop(0)
            text = "|".join(filter(None, map(letters_of, parts_of(figure))))
            if text:
                got = "|".join("".join(t.split()) for t in filter(None, [row["caption_title"], *row["caption_paras"]]))
                measured.captions += 1
                measured.right_captions += got == text
                measured.wrong += [f"{file} {xml_id}: {got[:200]} / {text[:200]}"] if got != text else []
            href = main_graphic(figure)
            if href:
                right = [m["href"] for m in row["media"] if m["role"] == "figure"][:1] == [href]
                measured.graphics += 1
                measured.right_graphics += right
                measured.wrong += [] if right else [f"{file} {xml_id}: {href} / {row['media']}"]
    return measured


@dataclass
class Offsets:
    """M5: mentions whose offsets were checked, captions that leaked into paragraphs, and offsets that are wrong."""

    mentions: int = 0
    leaks: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"M5 {self.mentions} mentions, {len(self.wrong)} wrong offsets, {self.leaks} captions in paragraphs"


def measured_offsets(corpus: str) -> Offsets:
    """Lay every offset against the text that it points into."""
    measured = Offsets()
    for file, _, rows in articles(corpus):
        texts = {p["par_id"]: p["text"] for p in rows["paragraph"]}
        for m in rows["mention"]:
            text = texts[m["par_id"]]
            exact = text[m["start"] : m["end"]] == m["text"] == m["text"].strip()
            inside = 0 <= m["sent_start"] <= m["start"] <= m["end"] <= m["sent_end"] <= len(text)
            measured.wrong += [] if exact and inside else [f"{file} {m}"]
        for f in rows["figure"]:
            measured.wrong += [f"{file} {p}" for p in f["panels"] if f["caption"][p["start"] : p["end"]] != p["text"]]
        measured.mentions += len(rows["mention"])
        narrative = "\n".join(p["text"] for p in rows["paragraph"] if p["where"] not in ("caption", "table"))
        told = [line for f in rows["figure"] for line in f["caption_paras"] if len(line) > 60]
        measured.leaks += sum(line in narrative for line in told)
    return measured


def located(element: etree._Element, inner: etree._Element) -> tuple[str, int, int]:
    """The letters of `element` as of `letters_of`, and where among them `inner` begins and ends (-1 where dropped)."""
    told: list[str] = []
    span = [-1, -1]

    def read(e: etree._Element) -> None:
        if e is inner:
            span[0] = len("".join("".join(told).split()))
        if name(e) in ("inline-formula", "math"):
            told.append(letters_of(e))
        else:
            told.append(e.text or "")
            for child in e:
                if name(child) and name(child) not in DROPPED:
                    read(child)
                told.append(child.tail or "")
        if e is inner:
            span[1] = len("".join("".join(told).split()))

    read(element)
    return "".join("".join(told).split()), span[0], span[1]


def covering(article: etree._Element, rows: Rows) -> Iterator[tuple[etree._Element, int]]:
    """Each cross-reference to a figure, found by XPath, with how many mentions hold it; -1: in no paragraph of ours."""
    spans: dict[str, list[list[tuple[int, int]]]] = {}
    for p in rows["paragraph"]:
        mine = [m for m in rows["mention"] if m["par_id"] == p["par_id"]]
        ends = [[len("".join(p["text"][: m[end]].split())) for end in ("start", "end")] for m in mine]
        spans.setdefault("".join(p["text"].split()), []).append([(a, b) for a, b in ends])
    for xref in article.xpath(".//*[local-name()='xref'][@ref-type='fig']"):
        found = -1
        for block in xref.iterancestors():
            letters, start, end = located(block, xref)
            if start >= 0 and letters in spans:
                # Paragraphs of the same letters have the same mentions, or else the fewest count.
                held = [
                    [a < end and start < b if start < end else a <= start <= b for a, b in m] for m in spans[letters]
                ]
                found = min(map(sum, held))
                break
        yield xref, found
