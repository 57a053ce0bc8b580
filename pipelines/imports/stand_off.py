"""Stand-off examples, filled in from the reader's own copies of the articles, each piece held against its digest."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from medloom.connectors import jats
from medloom.connectors.guard import Guard
from medloom.connectors.images import HEAD_BYTES, decode_picture, read_picture, sniff
from medloom.pipelines.exports.anchors import Anchors
from medloom.pipelines.imports.job import MAX_FILE_BYTES, Import, is_safe
from medloom.pipelines.sources.listing import list_objects, read_object
from medloom.pipelines.stages.measure import picture_digest
from medloom.schemas.errors import ConfigError, Refused, SourceError
from medloom.schemas.keys import is_key, sha256_hex

TIMEOUT_S = 120.0
EXAMPLES, MEDIA = "examples.jsonl", "media.jsonl"


@dataclass
class Copies:
    """What the reader has: files by sha256, and those that are XML.

    Attributes:
        by_digest: path of the first file of a digest.
        articles: paths of XML files by sha256.
    """

    root: str
    by_digest: dict[str, str] = field(default_factory=dict)
    articles: dict[str, str] = field(default_factory=dict)

    @classmethod
    def at(cls, root: str) -> "Copies":
        """Read and digest every file of a folder once; what cannot be read is passed over, as if it were not there."""
        found = cls(root)
        for row in list_objects(root).to_pylist():
            if not 0 < row["size"] <= MAX_FILE_BYTES:
                continue
            try:
                data = read_object(root, row["url"])
            except Refused:
                continue
            digest = sha256_hex(data)
            found.by_digest.setdefault(digest, row["url"])
            if sniff(data[:HEAD_BYTES]) == "xml":
                found.articles.setdefault(digest, row["url"])
        return found


def read(job: Import) -> None:
    """Stand-off: `examples.jsonl` of an export, filled in from `--source FOLDER` with the articles and figure files.

    Writes `examples.jsonl`, rows as in a build, and `media/KEY.jpg` or `.png` with the pixels that the build has. An
    article is found by the sha256 of its XML; one with other bytes, by the ids in it. Every piece of text and every
    picture's pixels are held against their digests: an example with a wrong one is refused, its neighbours are not.

    Raises:
        ConfigError: no --source is given.
        SourceError: there is no stand-off export at the source, or no folder of copies.
    """
    if not job.copies:
        raise ConfigError("stand_off holds no article: name the folder of your copies with --source FOLDER")
    if EXAMPLES not in job.files:
        raise SourceError(f"{job.source} is no stand-off export: it has no {EXAMPLES}")
    copies = Copies.at(job.copies)
    wanted = {str(row.get("unit")): row for row in job.articles.values()}
    media = {str(row.get("key")): row for row in job.lines(MEDIA)}
    with Guard() as guard:
        anchors = _Texts(guard, copies, wanted)
        written: dict[str, bool] = {}
        with job.store.writing(EXAMPLES) as file:
            for number, row in _rows(job):
                try:
                    filled = _filled(row, anchors)
                    for key in _keys(row):
                        if key not in written:
                            written[key] = _picture(job, key, media, copies)
                        if not written[key]:
                            raise Refused("media.missing", f"no copy of picture {key} has the pixels it had")
                except Refused as refused:
                    job.refuse("example", f"{row.get('example_id', number)}", refused)
                    continue
                file.write((json.dumps(filled, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
                job.made["example"] += 1


def _rows(job: Import) -> Iterator[tuple[int, dict[str, Any]]]:
    seen: set[str] = set()
    for number, row in enumerate(job.lines(EXAMPLES), 1):
        name = row.get("example_id")
        if not isinstance(name, str) or not isinstance(row.get("turns"), list):
            job.refuse("example", str(number), Refused("example.form", "it has no example_id or no turns"))
        elif name in seen:
            job.refuse("example", name, Refused("example.duplicate", "it stands in an earlier line"))
        else:
            seen.add(name)
            yield number, row


@dataclass
class _Texts:
    """Texts of the articles that the examples are of; those of one unit are kept, since its examples are together."""

    guard: Guard
    copies: Copies
    wanted: dict[str, dict[str, Any]]
    _unit: str = ""
    _of_unit: Anchors | Refused = field(default_factory=lambda: Refused("article.missing"))
    _by_key: dict[str, str] | None = None

    def of(self, unit: str) -> Anchors:
        """Return the texts of a unit.

        Raises:
            Refused("article.missing"), ("jats.…"): there is no copy of its article, or none that can be read.
        """
        if unit != self._unit:
            self._unit = unit
            try:
                self._of_unit = self._found(unit)
            except Refused as refused:
                self._of_unit = refused
        if isinstance(self._of_unit, Refused):
            raise self._of_unit
        return self._of_unit

    def _found(self, unit: str) -> Anchors:
        digest = str(self.wanted.get(unit, {}).get("source_digest"))
        url = self.copies.articles.get(digest) or self._other_bytes().get(unit)
        if url is None:
            raise Refused("article.missing", f"the copies hold no article {unit}")
        tables = self._parsed(url)
        return Anchors.of_rows(tables["figure"], tables["paragraph"])

    def _other_bytes(self) -> dict[str, str]:
        """Return the keys of the articles whose bytes are not those that were read, by parsing them."""
        if self._by_key is None:
            known = {str(row.get("source_digest")) for row in self.wanted.values()}
            self._by_key = {}
            for digest, url in self.copies.articles.items():
                if digest in known:
                    continue
                try:
                    key = self._parsed(url)["article"][0]["article_key"]
                except Refused:
                    continue
                self._by_key.setdefault(key, url)
        return self._by_key

    def _parsed(self, url: str) -> dict[str, list[dict[str, Any]]]:
        data = read_object(self.copies.root, url)
        parsed: dict[str, list[dict[str, Any]]] = self.guard.call(_parse, data, url, timeout_s=TIMEOUT_S)
        return parsed


def _parse(data: bytes, url: str) -> dict[str, list[dict[str, Any]]]:
    return jats.parse_article(data, source=url)


def _keys(row: dict[str, Any]) -> list[str]:
    keys = row.get("media") or []
    if not isinstance(keys, list) or not all(isinstance(key, str) and is_key(key) for key in keys):
        raise Refused("example.form", "its media are no list of keys")
    return keys


def _filled(row: dict[str, Any], texts: _Texts) -> dict[str, Any]:
    """Return a row with its texts."""
    anchors = texts.of(str(row.get("unit")))
    try:
        turns = [
            {"role": turn["role"], "parts": [_part(part, anchors) for part in turn["parts"]]} for turn in row["turns"]
        ]
        evidence = [
            {**{name: said[name] for name in ("where", "start", "end")}, "text": anchors.text(said["pieces"])}
            for said in row["evidence"]
        ]
        regions = [{**region, "phrase": anchors.text(region["phrase"])} for region in row["regions"]]
        labels = [_label(label, anchors) for label in row["labels"]]
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise Refused("example.form", f"its pieces are not those of the form ({type(fault).__name__})") from fault
    return {**row, "turns": turns, "evidence": evidence, "regions": regions, "labels": labels}


def _label(label: str | dict[str, Any], anchors: Anchors) -> str:
    if isinstance(label, str):
        return label
    text = anchors.text(label["pieces"])
    return text.lower() if label["lower"] else text


def _part(part: dict[str, Any], anchors: Anchors) -> dict[str, Any]:
    if part.get("media"):
        return {"text": "", "media": part["media"], "box": part["box"]}
    return {"text": anchors.text(part["pieces"]), "media": "", "box": []}


def _picture(job: Import, key: str, media: dict[str, dict[str, Any]], copies: Copies) -> bool:
    """Write a picture as the build stores it; whether there was a copy of the same pixels."""
    try:
        facts = media.get(key)
        url = copies.by_digest.get(str(facts.get("source_sha256"))) if facts else None
        if facts is None or url is None:
            raise Refused("image.missing", "the copies hold no file of that digest")
        picture = read_picture(read_object(copies.root, url))
        if facts.get("pixels_sha256") and picture_digest(decode_picture(picture)) != facts["pixels_sha256"]:
            raise Refused("image.pixels_differ", "its pixels are not those that the build has")
        if not is_safe(key):
            raise Refused("image.key", "its key is no plain name")
    except Refused as refused:
        job.refuse("image", key, refused)
        return False
    job.store.write(f"media/{key}.{picture.format}", picture.data)
    job.made["image"] += 1
    return True
