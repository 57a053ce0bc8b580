"""JATS XML → rows: one article's text, figures and the mentions that join them.

Pure: bytes in, rows out; no network, no files. The XML is not trusted: no DTD is loaded, no entity expanded, depth
and size are bounded, and what cannot be read is refused as a whole rather than read in part.
"""

from typing import Any

from lxml import etree

from medloom.connectors.alignment import Aligner, is_notice
from medloom.connectors.case_reports import mark_sections
from medloom.connectors.inline_text import NAMES, flatten, names
from medloom.connectors.jats_figures import figure_rows
from medloom.connectors.jats_front import Source, article_row, read_front
from medloom.connectors.jats_text import Walk
from medloom.schemas.errors import Refused

PARSER_VERSION = "2"
MAX_BYTES = 64 << 20
_PARSER = etree.XMLParser(
    resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=False, recover=False,
    remove_comments=True, remove_pis=True,
)  # fmt: skip
_REVIEWS = names("decision-letter reviewer-report referee-report editor-report review")


def parse_article(data: bytes, *, source: str, max_bytes: int = MAX_BYTES) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of "article" (one), "section", "paragraph", "figure" and "mention" that `data` holds.

    Columns are those of `medloom.schemas.tables.TABLES`. An envelope (OAI-PMH, `pmc-articleset`) around the article
    and a default namespace are read through; offsets are half-open and count characters of `paragraph.text`.

    Args:
        data: the XML of one article.
        source: stands in `article.source` as given; its base name makes the key of an article without PMCID and DOI.
        max_bytes: larger inputs are refused.

    Raises:
        Refused("jats.large"): more than `max_bytes`, or a text node above 10 MB.
        Refused("jats.deep"): elements nested deeper than the parser allows (256).
        Refused("jats.entities"): entities that expand beyond measure.
        Refused("jats.malformed"): not well-formed XML.
        Refused("jats.no_article"): XML without an article, or with more than one.
    """
    article = _the_article(_parse(data, max_bytes))
    flatten(article)
    front = read_front(article)
    key = front.article_key(source)
    walk = Walk(key)
    walk.article(article)
    figures = figure_rows(walk, lang=front.lang)
    reviews = frozenset(scope for scope, kind in walk.scope_types.items() if kind in _REVIEWS)
    fig_keys = tuple(row["fig_key"] for row in figures.rows)
    aligner = Aligner(key, fig_keys, figures.index, is_notice(front.article_type), reviews)
    mentions = aligner.rows(walk.paragraphs)
    mentioned = {row["par_id"] for row in mentions}
    own_sections = walk.sections[: walk.n_own_sections]
    row = article_row(front, Source(source, data), own_sections, len(figures.rows), PARSER_VERSION)
    if row["is_case_report"]:
        mark_sections(own_sections)
    return {
        "article": [row],
        "section": walk.sections,
        "paragraph": [p.row for p in walk.paragraphs if not p.sparse or p.row["par_id"] in mentioned],
        "figure": figures.rows,
        "mention": mentions,
    }


def _parse(data: bytes, max_bytes: int) -> etree._Element:
    if len(data) > max_bytes:
        raise Refused("jats.large", f"{len(data)} bytes, the limit is {max_bytes}")
    try:
        return etree.fromstring(data, _PARSER)
    except etree.XMLSyntaxError as error:
        raise Refused(refusal_reason(str(error)), str(error)) from error


def refusal_reason(message: str) -> str:
    """Return the reason ("jats.…") of what the XML parser says it could not read."""
    lowered = message.lower()
    if "depth" in lowered:
        return "jats.deep"
    if "amplification" in lowered or "entity reference loop" in lowered:
        return "jats.entities"
    return "jats.large" if "huge" in lowered or "too long" in lowered else "jats.malformed"


def _the_article(root: etree._Element) -> etree._Element:
    if NAMES[root.tag] == "article":
        return root
    articles = list(root.iter("{*}article"))
    if len(articles) != 1:
        raise Refused("jats.no_article", f"root is <{NAMES[root.tag]}> with {len(articles)} articles in it, 1 expected")
    return articles[0]
