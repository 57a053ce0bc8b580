"""The PMC Cloud Service as a loopback server plays it: a bucket of synthetic articles, its listings and inventories."""

import csv
import gzip
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from xml.sax.saxutils import escape

from tests.services.loopback import Asked, Loopback, Reply, give_object, loopback, md5_hex
from tests.sources import picture_bytes

BUCKET = "pmc-oa-opendata"
REPORTS = f"inventory-reports/{BUCKET}/metadata"
LICENCES = {
    "CC BY": '<license xlink:href="https://creativecommons.org/licenses/by/4.0/"><license-p>Open.</license-p></license>',
    "CC0": '<license xlink:href="https://creativecommons.org/publicdomain/zero/1.0/"><license-p>Free.</license-p>'
    "</license>",
    "CC BY-ND": '<license xlink:href="https://creativecommons.org/licenses/by-nd/4.0/"><license-p>x</license-p></license>',
    "CC BY-NC": '<license xlink:href="https://creativecommons.org/licenses/by-nc/4.0/"><license-p>x</license-p></license>',
    "TDM": "", "": "",
}  # fmt: skip
BORROWED = (
    "<permissions><license><license-p>Reproduced with permission from Elsevier.</license-p></license></permissions>"
)


@dataclass(frozen=True)
class Figure:
    """A figure: what its graphic is called in the XML, the files in the article's folder, its own permissions."""

    href: str
    files: tuple[str, ...]
    permissions: str = ""


@dataclass(frozen=True)
class Article:
    """An article version; `said` overrides keys of its record, `stated` is the licence that its XML states."""

    number: int
    version: int = 1
    figures: tuple[Figure, ...] = ()
    stated: str = "CC BY"
    retracted_in_xml: bool = False
    word: str = "opacity"
    others: tuple[str, ...] = ()
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def pmcid(self) -> str:
        return f"PMC{self.number}"

    @property
    def folder(self) -> str:
        return f"{self.pmcid}.{self.version}"

    @property
    def xml_key(self) -> str:
        return f"{self.folder}/{self.folder}.xml"

    @property
    def record_key(self) -> str:
        return f"metadata/{self.folder}.json"

    def xml(self) -> bytes:
        retracted = '<related-article related-article-type="retracted-by" id="r" xlink:href="x"/>'
        figures = "".join(
            f'<fig id="F{i}"><label>Figure {i}.</label><caption><p>An {self.word}, view {i}.</p></caption>'
            f'<graphic xlink:href="{escape(figure.href)}"/>{figure.permissions}</fig>'
            for i, figure in enumerate(self.figures, 1)
        )
        cited = " ".join(f'<xref ref-type="fig" rid="F{i}">Figure {i}</xref>' for i in range(1, len(self.figures) + 1))
        return f"""<?xml version="1.0" encoding="UTF-8"?>
<article xmlns:xlink="http://www.w3.org/1999/xlink" article-type="case-report" xml:lang="en"><front>
<journal-meta><journal-title-group><journal-title>Synthetic Cases</journal-title></journal-title-group></journal-meta>
<article-meta><article-id pub-id-type="pmcid">{self.pmcid}</article-id>
<article-id pub-id-type="pmcid-ver">{self.folder}</article-id>
<title-group><article-title>Synthetic case {self.number}</article-title></title-group>
{retracted if self.retracted_in_xml else ""}<permissions>{LICENCES[self.stated]}</permissions></article-meta></front>
<body><sec><title>Case</title><p>The film of case {self.number} showed an {self.word} ({cited}). It went.</p>{figures}
</sec></body></article>
""".encode()

    def objects(self) -> dict[str, bytes]:
        """Its objects by key; the record names them with their md5."""
        made = {self.xml_key: self.xml()}
        for i, name in enumerate(dict.fromkeys([f for figure in self.figures for f in figure.files])):
            ending = name.rpartition(".")[2]
            made[f"{self.folder}/{name}"] = picture_bytes(
                self.number * 100 + i, "png" if ending == "png" else "jpg", size=24 if "thumb" in name else 48
            )
        for name in self.others:
            made[f"{self.folder}/{name}"] = f"{name} of {self.folder}".encode()
        media = [key for key in made if key != self.xml_key]
        record = {
            "pmcid": self.pmcid, "version": self.version, "pmid": None, "doi": None, "title": f"Case {self.number}",
            "citation": "Synth Cases. 2026", "is_pmc_openaccess": True, "is_manuscript": False,
            "is_historical_ocr": False, "is_retracted": False, "license_code": self.stated or None,
            "xml_url": url_of(self.xml_key, made[self.xml_key]), "pdf_url": None, "text_url": None,
            "media_urls": [url_of(key, made[key]) for key in media], "a_new_key": {"of": "tomorrow"},
        }  # fmt: skip
        return made | {self.record_key: json.dumps(record | self.said).encode()}


def url_of(key: str, data: bytes) -> str:
    """Return an object's URL as records give it."""
    return f"s3://{BUCKET}/{key}?md5={md5_hex(data)}"


def plain(number: int, *, n_figures: int = 2, **changes: Any) -> Article:
    """Return an open article with figures; their graphics are named in the ways that articles do."""
    figures = []
    for i in range(1, n_figures + 1):
        stem = f"a{number}-g{i}"
        href = (f"{stem}.jpg", stem, f"https://example.org/x/{stem}.jpg", f"info:doi/10.9999/journal.{stem}")[i % 4]
        figures.append(Figure(href, (f"{stem}.jpg",)))
    return replace(Article(number, figures=tuple(figures), others=(f"s{number}.xlsx", f"m{number}.mp4")), **changes)


class Pmc:
    """The bucket behind a loopback server.

    Attributes:
        server: its faults and the requests that it saw; its address stands for the bucket in virtual-host style, and
            `url` is the base in path style.
        page: keys per page of a listing, unless fewer are asked for.
    """

    def __init__(self, server: Loopback):
        self.server = server
        self.page = 1000
        server.answer = self.answer

    @property
    def url(self) -> str:
        return f"{self.server.url}/{BUCKET}"

    @property
    def objects(self) -> dict[str, bytes]:
        return self.server.objects

    @property
    def asked(self) -> list[str]:
        """Keys asked for so far, and "list PREFIX" for listings."""
        return [
            f"list {seen.query['prefix']}" if "list-type" in seen.query
            else seen.path.removeprefix(f"/{BUCKET}").lstrip("/")
            for seen in self.server.seen
        ]  # fmt: skip

    def add(self, *articles: Article) -> None:
        for article in articles:
            self.objects.update(article.objects())

    def remove(self, *articles: Article) -> None:
        for article in articles:
            for key in [k for k in self.objects if k.startswith(f"{article.folder}/") or k == article.record_key]:
                del self.objects[key]

    def report(self, stamp: str, *, files: int = 2) -> None:
        """Write an inventory report of the records that are there now."""
        rows = [
            (BUCKET, key, "2026-01-08T11:47:59.000Z", md5_hex(data))
            for key, data in sorted(self.objects.items()) if key.startswith("metadata/")
        ]  # fmt: skip
        entries = []
        for i in range(files):
            text = io.StringIO()
            csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows[i::files])
            data, key = gzip.compress(text.getvalue().encode(), mtime=0), f"{REPORTS}/data/{stamp}-{i}.csv.gz"
            self.objects[key] = data
            entries.append({"key": key, "size": len(data), "MD5checksum": md5_hex(data)})
        manifest = {
            "sourceBucket": BUCKET, "destinationBucket": f"arn:aws:s3:::{BUCKET}", "version": "2016-11-30",
            "creationTimestamp": "1788483600000", "fileFormat": "CSV",
            "fileSchema": "Bucket, Key, LastModifiedDate, ETag", "files": entries,
        }  # fmt: skip
        body = json.dumps(manifest).encode()
        self.objects[f"{REPORTS}/{stamp}/manifest.json"] = body
        self.objects[f"{REPORTS}/{stamp}/manifest.checksum"] = md5_hex(body).encode()

    def answer(self, asked: Asked) -> Reply:
        if "list-type" in asked.query:
            return self._list(asked.query)
        return give_object(self.objects, replace(asked, path=asked.path.removeprefix(f"/{BUCKET}")))

    def _list(self, query: dict[str, str]) -> Reply:
        """List as S3 does, a token being anything but readable."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        found: dict[str, str] = {}
        for key in sorted(k for k in self.objects if k.startswith(prefix)):
            head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if cut:
                name = prefix + head + cut
                found[name] = f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            else:
                etag, size = md5_hex(self.objects[key]), len(self.objects[key])
                found[key] = (
                    f"<Contents><Key>{escape(key)}</Key><ETag>&quot;{etag}&quot;</ETag><Size>{size}</Size></Contents>"
                )
        token = query.get("continuation-token", "")
        start = int(token.removeprefix("t+/=").removesuffix("&x")) if token else 0
        end = start + min(self.page, int(query.get("max-keys", "1000")))
        names = list(found)[start:end]
        more = end < len(found)
        following = f"<NextContinuationToken>t+/={end}&amp;x</NextContinuationToken>" if more else ""
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(names)}</KeyCount>"
            f"<MaxKeys>1000</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>{following}"
            f"{''.join(found[name] for name in names)}</ListBucketResult>"
        )
        return Reply(200, body.encode(), {"Content-Type": "application/xml"})


@contextmanager
def pmc_service(*articles: Article) -> Iterator[Pmc]:
    """Serve a bucket that holds these articles."""
    with loopback() as server:
        service = Pmc(server)
        service.add(*articles)
        yield service
