"""How well mentions find their figures: M1–M5 over the corpus, against a truth read from the XML by other means."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from medloom.connectors.jats import parse_article

CORPUS = os.environ.get("MEDLOOM_TEST_CORPUS")
pytestmark = pytest.mark.skipif(
    not CORPUS, reason="needs MEDLOOM_TEST_CORPUS: it does not name the folder of checking data"
)

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
def articles() -> tuple[tuple[str, etree._Element, Rows], ...]:
    """Every article of the corpus: file, its XML read plainly, its rows."""
    found = []
    for path in sorted((Path(CORPUS or "") / "pmc" / "xml").glob("*.xml")):
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


def test_paragraphs_find_the_figures_that_their_cross_references_name(capsys: pytest.CaptureFixture[str]) -> None:
    true = found = both = told = 0
    for file, article, rows in articles():
        expected, got = true_pairs(article), found_pairs(rows)
        in_paragraphs = {text for text, _ in expected}
        # Table cells and titles hold cross-references without a paragraph: not part of this truth.
        got = Counter({pair: n for pair, n in got.items() if pair[0] in in_paragraphs})
        true, found, both = true + expected.total(), found + got.total(), both + (expected & got).total()
        told += sum(n for (_, figure), n in (got - expected).items() if (file, figure) in TOLD_BY_TEXT)
        for text, figure in list((expected - got).elements())[:3] + list((got - expected).elements())[:3]:
            print(file, figure, text[:80])
    with capsys.disabled():
        print(f"\nM1 {true} pairs, {found} found: recall {both / true:.4f}, precision {both / found:.4f}")
        print(f"   with {told} pairs that only the text tells counted as right: precision {(both + told) / found:.4f}")
    assert true > 1300
    assert both / true >= 0.998
    assert told <= 3
    assert both / found >= 0.9975
    assert (both + told) / found >= 0.998


@cache
def gold() -> tuple[tuple[dict[str, Any], list[dict[str, Any]], Rows], ...]:
    """Every hand-labelled mention, with our mentions that overlap it, and the rows of its article."""
    rows_of = {file: rows for file, _, rows in articles()}
    found = []
    for line in (Path(CORPUS or "") / "pmc" / "gold_mentions.jsonl").read_text().splitlines():
        label = json.loads(line)
        rows = rows_of[Path(label["file"]).name]
        paragraph = next(p for p in rows["paragraph"] if label["sentence"] in p["text"])
        start = paragraph["text"].index(label["sentence"]) + label["char_in_sentence"]
        end = start + len(label["mention_text"])
        ours = [
            m for m in rows["mention"] if m["par_id"] == paragraph["par_id"] and m["start"] < end and start < m["end"]
        ]
        found.append((label, ours, rows))
    return tuple(found)


def test_labelled_mentions_name_exactly_their_figures_and_panels(capsys: pytest.CaptureFixture[str]) -> None:
    figures = panels = sentences = qualifiers = 0
    for label, ours, rows in gold():
        ids = {f["fig_key"]: f["xml_id"] for f in rows["figure"]}
        texts = {p["par_id"]: p["text"] for p in rows["paragraph"]}
        exact = {ids[k] for m in ours for k in m["fig_keys"]} == set(label["expected_fig_ids"])
        exact_panels = {ids[k]: v for m in ours for k, v in m["panels"].items()} == label["expected_panels"]
        figures, panels = figures + exact, panels + exact_panels
        sentences += any(texts[m["par_id"]][m["sent_start"] : m["sent_end"]] == label["sentence"] for m in ours)
        qualifiers += all(m["qualifier"] == label["expected_qualifier"] for m in ours)
        if not exact or not exact_panels:
            print(label["file"], label["mention_text"], ours)
    with capsys.disabled():
        print(
            f"\nM2 {figures}/30 figure sets, M3 {panels}/30 panels; "
            f"{sentences}/30 sentences, {qualifiers}/30 qualifiers"
        )
    assert (figures, panels) >= (30, 30)
    assert sentences >= 29
    assert qualifiers >= 30


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


def test_figures_keep_their_captions_and_their_graphics(capsys: pytest.CaptureFixture[str]) -> None:
    captions = graphics = right_captions = right_graphics = 0
    for file, article, rows in articles():
        true = list(true_figures(article))
        assert sorted(i for i, _ in true) == sorted(f["xml_id"] for f in rows["figure"]), file
        ours: dict[str, list[dict[str, Any]]] = {}
        for row in rows["figure"]:
            ours.setdefault(row["xml_id"], []).append(row)
        for xml_id, figure in true:
            row = ours[xml_id].pop(0)
            parts = parts_of(figure)
            text = "|".join(filter(None, map(letters_of, parts)))
            if text:
                captions += 1
                got = "|".join("".join(t.split()) for t in filter(None, [row["caption_title"], *row["caption_paras"]]))
                right_captions += got == text
                if got != text:
                    print(file, xml_id, "\n", got[:200], "\n", text[:200])
            href = main_graphic(figure)
            if href:
                graphics += 1
                right_graphics += [m["href"] for m in row["media"] if m["role"] == "figure"][:1] == [href]
                if [m["href"] for m in row["media"] if m["role"] == "figure"][:1] != [href]:
                    print(file, xml_id, href, row["media"])
    with capsys.disabled():
        print(f"\nM4 captions {right_captions}/{captions}, graphics {right_graphics}/{graphics}")
    assert captions > 600
    assert right_captions / captions >= 0.995
    assert graphics > 600
    assert right_graphics / graphics >= 0.995


def test_offsets_are_exact_and_captions_stay_out_of_paragraphs(capsys: pytest.CaptureFixture[str]) -> None:
    mentions = leaks = 0
    for file, _, rows in articles():
        texts = {p["par_id"]: p["text"] for p in rows["paragraph"]}
        for m in rows["mention"]:
            text = texts[m["par_id"]]
            assert text[m["start"] : m["end"]] == m["text"], file
            assert m["text"] == m["text"].strip(), (file, m)
            assert 0 <= m["sent_start"] <= m["start"] <= m["end"] <= m["sent_end"] <= len(text), (file, m)
        mentions += len(rows["mention"])
        narrative = "\n".join(p["text"] for p in rows["paragraph"] if p["where"] not in ("caption", "table"))
        told = [line for f in rows["figure"] for line in f["caption_paras"] if len(line) > 60]
        leaks += sum(line in narrative for line in told)
        for f in rows["figure"]:
            assert all(f["caption"][p["start"] : p["end"]] == p["text"] for p in f["panels"]), file
    with capsys.disabled():
        print(f"\nM5 {mentions} mentions, {leaks} captions in paragraphs")
    assert leaks == 0


def test_every_figure_cross_reference_is_part_of_one_mention() -> None:
    for file, article, rows in articles():
        in_text = Counter("".join(x.itertext()).strip() for x in article.iter("{*}xref") if x.get("ref-type") == "fig")
        told = "".join(m["text"] for m in rows["mention"])
        missing = [text for text in in_text if not set(re.findall(r"\d+", text)) <= set(re.findall(r"\d+", told))]
        assert not missing, (file, missing)
