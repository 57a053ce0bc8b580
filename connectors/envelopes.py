"""Envelopes: XML answers that hold records and articles → each one's own bytes; nothing in them is trusted.

The parser is as strict as `medloom.connectors.jats`: no DTD is loaded, no entity expanded, depth and size are bounded.
Comments are kept, since a service says in one why it gives no full text.
"""

import re
from dataclasses import dataclass
from typing import Any

from lxml import etree

from medloom.connectors.http import Answer
from medloom.connectors.jats import refusal_reason
from medloom.connectors.jats_front import Front, read_front
from medloom.schemas.errors import Refused

MAX_BYTES = 256 << 20
_REFUSES = re.compile(r"does not allow|not allow(?:ed)? (?:the )?download|not (?:in the )?open access", re.IGNORECASE)
# A reference to an entity that nobody declares is an error, unless a DTD is named that could declare it.
_DOCTYPE = b'<!DOCTYPE article SYSTEM "JATS-archivearticle1.dtd">\n'


@dataclass(frozen=True)
class Received:
    """What a service gave for one article: its bytes, or why there are none.

    Attributes:
        pmcid: "PMC123", as asked.
        version: 1 when the article states none, 0 when it is refused.
        content: the article's own XML, b"" when it is refused.
        url: where it can be had again, without key and address of whoever asked.
        retrieved_at: "2026-11-22T18:00:00Z", "" when the service gave nothing.
        front: what its front matter states, None when it is refused.
        refused: why there is none.
    """

    pmcid: str
    version: int
    content: bytes
    url: str
    retrieved_at: str
    front: Front | None
    refused: Refused | None = None

    @property
    def article(self) -> str:
        """The article version's name in a raw zone, "PMC123.1"."""
        return f"{self.pmcid}.{self.version}"

    @classmethod
    def refusing(cls, pmcid: str, refused: Refused) -> "Received":
        """Return what stands for an article that is not to be had."""
        return cls(pmcid, 0, b"", "", "", None, refused)


def received(article: Any, *, pmcid: str, url: str, answer: Answer) -> Received:
    """Return an `article` element as its own document, refused when a service gave only the front of it.

    Args:
        article: its comments and instructions are taken out of it; they are in `content`.
        pmcid: by which it was asked; "" takes what its front matter states.
        url: where it can be had again.
    """
    says = any(_REFUSES.search(comment.text or "") for comment in article.iter(etree.Comment))
    content = own_bytes(article)
    front = front_of(article)
    pmcid = pmcid or front.pmcid
    if is_front_only(article, front, says=says):
        what = f"{pmcid}: the service gives only the front of it, no body"
        return Received(pmcid, 0, b"", url, answer.retrieved_at, None, Refused("article.not_open_access", what))
    return Received(pmcid, front.version, content, url, answer.retrieved_at, front)


def front_of(article: Any) -> Front:
    """Return what the front matter of an `article` element states; its comments and instructions are taken out."""
    etree.strip_tags(article, etree.Comment, etree.ProcessingInstruction)
    return read_front(article)


def parse_envelope(data: bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """Return the root element of an answer.

    Raises:
        Refused("jats.large"): more than `max_bytes`, or a text node above 10 MB.
        Refused("jats.deep"): elements nested deeper than the parser allows (256).
        Refused("jats.entities"): entities that expand beyond measure.
        Refused("jats.malformed"): not well-formed XML.
    """
    if len(data) > max_bytes:
        raise Refused("jats.large", f"{len(data)} bytes, the limit is {max_bytes}")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=False, recover=False
    )
    try:
        return etree.fromstring(data, parser)
    except etree.XMLSyntaxError as fault:
        raise Refused(refusal_reason(str(fault)), str(fault)[:200]) from fault


def local_name(element: Any) -> str:
    """Return an element's name without namespace, "" for comments, instructions and entities."""
    return etree.QName(element).localname if isinstance(element.tag, str) else ""


def children(element: Any, name: str) -> list[Any]:
    """Return the child elements of that local name, in order."""
    return [child for child in element if local_name(child) == name]


def text_of(element: Any, name: str) -> str:
    """Return the text of the first child element of that local name, stripped; "" when there is none."""
    found = children(element, name)
    return "".join(found[0].itertext()).strip() if found else ""


def own_bytes(element: Any) -> bytes:
    """Return an element as a document of its own, UTF-8, with the namespaces that are in scope where it stood.

    The bytes do not depend on what else the envelope held, but for declarations of namespaces on its root.
    """
    declared = _DOCTYPE if next(element.iter(etree.Entity), None) is not None else b""
    return declared + bytes(etree.tostring(element, encoding="UTF-8", xml_declaration=False, with_tail=False)) + b"\n"


def is_front_only(article: Any, front: Front, *, says: bool) -> bool:
    """Whether a service gave only the front of an article because it may not give the rest.

    There is no body, and a comment says why (`says`), or no licence is stated that could permit more. A scanned or
    one-page article under a known licence has no body either, and is whole.
    """
    if children(article, "body") or children(article, "floats-group"):
        return False
    return says or front.licence.terms_id == "unknown"
