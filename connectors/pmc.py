"""The PMC Cloud Service: an anonymous S3 bucket of article versions, asked by plain REST; keys are data, not paths.

PMC11370360.1/PMC11370360.1.xml     JATS; beside it text, PDF, media under the publisher's own names
metadata/PMC11370360.1.json         what the version is, and the URLs of its objects, each with its md5
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import pydantic

from medloom.connectors.envelopes import children, local_name, parse_envelope, text_of
from medloom.connectors.http import Again, Answer, Http
from medloom.connectors.settings import service_url
from medloom.schemas.errors import Refused, RetryLater

MAX_METADATA_BYTES = 8 << 20
MAX_MEDIA_BYTES = 256 << 20
MAX_PAGES = 1_000_000
_PMCID = re.compile(r"PMC[1-9]\d{0,11}")
_FOLDER = re.compile(r"(PMC[1-9]\d{0,11})\.([1-9]\d{0,4})/?")
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class ObjectUrl:
    """An object of the bucket as metadata name it: its key, and the md5 that its bytes must have ("" when not told)."""

    key: str
    md5: str

    @property
    def name(self) -> str:
        """Its name in the article's folder."""
        return self.key.rpartition("/")[2]


def _text_or_number(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_Text = Annotated[str | None, pydantic.BeforeValidator(_text_or_number)]


class Metadata(pydantic.BaseModel):
    """The record of an article version; keys that are not named here are passed over.

    `doi`, `pmid`, `license_code` and any URL may be null. What decides whether it may be fetched must be there.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")

    pmcid: Annotated[str, pydantic.Field(pattern=r"^PMC[1-9]\d{0,11}$")]
    version: Annotated[int, pydantic.Field(ge=1)]
    is_pmc_openaccess: bool
    is_retracted: bool
    is_manuscript: bool = False
    is_historical_ocr: bool = False
    license_code: str | None = None
    title: str | None = None
    citation: str | None = None
    doi: str | None = None
    pmid: _Text = None
    xml_url: str | None = None
    media_urls: list[str] | None = None

    @property
    def article(self) -> str:
        """The version's folder, "PMC11370360.1"."""
        return f"{self.pmcid}.{self.version}"

    def xml(self) -> ObjectUrl:
        """Return where the article's XML is.

        Raises:
            Refused("pmc.no_xml"): there is none.
            Refused("pmc.key"): it is not in the version's own folder.
        """
        if not self.xml_url:
            raise Refused("pmc.no_xml", f"the record of {self.article} names no XML")
        return self._object(self.xml_url)

    def media(self) -> list[ObjectUrl]:
        """Return the media that the record names, in its order; those outside the version's own folder are left out."""
        found = []
        for url in self.media_urls or ():
            try:
                found.append(self._object(url))
            except Refused:
                continue
        return found

    def _object(self, url: str) -> ObjectUrl:
        found = read_object_url(url)
        if not found.key.startswith(f"{self.article}/") or not found.name:
            raise Refused("pmc.key", f"the record of {self.article} names an object outside its folder")
        return found


def read_object_url(url: str) -> ObjectUrl:
    """Return the key and md5 of `s3://BUCKET/KEY?md5=…`; `?md5=` is for whoever checks, not for the service.

    Raises:
        Refused("pmc.key"): it is no such URL, or its key has a part that could lead elsewhere.
    """
    address, _, query = url.partition("?")
    try:
        parts = urlsplit(address)
    except ValueError:
        raise Refused("pmc.key", "an object's URL is none") from None
    key = address.removeprefix(f"{parts.scheme}://{parts.netloc}").lstrip("/")
    if parts.scheme not in ("s3", "https", "http") or not parts.netloc or not is_plain_key(key):
        raise Refused("pmc.key", "an object's URL is not s3://bucket/key")
    md5 = next((value for name, _, value in (p.partition("=") for p in query.split("&")) if name == "md5"), "").lower()
    return ObjectUrl(key, md5 if _MD5.fullmatch(md5) else "")


def is_plain_key(key: str) -> bool:
    """Whether a key is printable, of 1 to 1024 bytes (S3's limit), without an empty, `.` or `..` part."""
    return (
        0 < len(key.encode("utf-8", "replace")) <= 1024
        and key.isprintable()
        and not {"", ".", ".."} & set(key.split("/"))
    )


def read_metadata(data: bytes, *, article: str) -> Metadata:
    """Return the record of `article` ("PMC11370360.1").

    Raises:
        Refused("pmc.metadata"): it is no such JSON, lacks a key, has one of another type, or is another article's.
    """
    try:
        found = Metadata.model_validate_json(data)
    except pydantic.ValidationError as fault:
        first = fault.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the record"
        raise Refused("pmc.metadata", f"{article}: {where}: {first['msg']}") from fault
    if found.article != article:
        raise Refused("pmc.metadata", f"{article}: the record is that of {found.article}")
    return found


def metadata_key(article: str) -> str:
    """Return the key of a version's record."""
    return f"metadata/{article}.json"


def is_pmcid(text: str) -> bool:
    """Whether `text` is a PMCID, "PMC" and digits."""
    return bool(_PMCID.fullmatch(text))


@dataclass(frozen=True)
class Listed:
    """An object of a listing, or, with size -1, what the keys up to the next `/` have in common."""

    key: str
    size: int
    etag: str = ""


@dataclass(frozen=True)
class PmcCloud:
    """The bucket.

    Attributes:
        url: its base: virtual-host style (`https://BUCKET.s3.amazonaws.com`) or path style (`http://HOST/BUCKET`).
        page: keys per page of a listing; S3 gives 1,000 at most.
    """

    http: Http
    url: str = field(default_factory=lambda: service_url("pmc"))
    page: int = 1000

    def listing(self, prefix: str, *, delimiter: str = "") -> Iterator[Listed]:
        """Give all keys that begin with `prefix`, page by page; with `delimiter`, common prefixes as they come.

        Raises:
            Refused("http.…"): the listing is forbidden or not there.
            RetryLater: the service does not answer, or its pages do not end.
        """
        told = {"list-type": "2", "prefix": prefix, "max-keys": str(self.page)}
        params = told | ({"delimiter": delimiter} if delimiter else {})
        token, last = "", ""
        for _ in range(MAX_PAGES):
            asked = params | ({"continuation-token": token} if token else {})
            root = parse_envelope(self.http.get(f"{self.url}/", params=asked, check=_must_be_listing).content)
            yield from _listed(root)
            last, token = token, text_of(root, "NextContinuationToken")
            if text_of(root, "IsTruncated").lower() != "true":
                return
            if not token or token == last:
                break
        raise RetryLater(f"the listing of {prefix} gives a page without end; run the same command again later")

    def versions(self, pmcid: str) -> list[int]:
        """Return the versions of an article, oldest first; none when the service does not know it.

        Args:
            pmcid: "PMC11370360". The prefix asked for ends in a dot, else PMC113 would find PMC11370360.
        """
        found = [_FOLDER.fullmatch(each.key) for each in self.listing(f"{pmcid}.", delimiter="/")]
        return sorted(int(m[2]) for m in found if m and m[1] == pmcid)

    def sizes(self, article: str) -> dict[str, int]:
        """Return the size of every object in a version's folder, by key."""
        return {each.key: each.size for each in self.listing(f"{article}/") if each.size >= 0}

    def metadata(self, article: str, *, etag: str = "") -> Answer:
        """Return the record of a version; status 304 without content when it is still the one of `etag`.

        No md5 is told of a record. One that is unreadable, and has not the md5 that its ETag is, was damaged on its
        way, and is asked for again.
        """
        headers = {"If-None-Match": f'"{etag}"'} if etag else None

        def check(answer: Answer) -> None:
            is_as_sent = md5_of(answer.content) == answer.headers.get("etag", "").strip('"')
            if not is_as_sent and not _is_json(answer.content):
                raise Again("a damaged record")

        url = self.address(metadata_key(article))
        return self.http.get(url, headers=headers, max_bytes=MAX_METADATA_BYTES, check=check)

    def get(self, target: ObjectUrl, *, max_bytes: int) -> Answer:
        """Return an object, its bytes checked."""
        return self.http.get(self.address(target.key), max_bytes=max_bytes, md5=target.md5)

    def download(
        self, target: ObjectUrl, *, to: Path, max_bytes: int = MAX_MEDIA_BYTES, size: int | None = None
    ) -> Answer:
        """Write an object to a file, its bytes checked."""
        return self.http.download(self.address(target.key), to=to, max_bytes=max_bytes, md5=target.md5, size=size)

    def address(self, key: str) -> str:
        """Return the URL of an object."""
        return f"{self.url}/{quote(key, safe='/')}"


def md5_of(content: bytes | Path) -> str:
    """Return the md5 of bytes, or of a file's."""
    if isinstance(content, bytes):
        return hashlib.md5(content, usedforsecurity=False).hexdigest()
    with open(content, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _must_be_listing(answer: Answer) -> None:
    """Ask again for what is no listing: the page of a proxy, or half a document."""
    try:
        root = parse_envelope(answer.content)
    except Refused as refused:
        raise Again(f"a listing that is {refused.reason}") from None
    if local_name(root) != "ListBucketResult":
        raise Again(f"<{local_name(root)[:40]}> in place of a listing")


def _listed(root: Any) -> Iterator[Listed]:
    for entry in children(root, "Contents"):
        size = text_of(entry, "Size")
        yield Listed(text_of(entry, "Key"), int(size) if size.isdigit() else 0, text_of(entry, "ETag").strip('"'))
    for entry in children(root, "CommonPrefixes"):
        yield Listed(text_of(entry, "Prefix"), -1)
