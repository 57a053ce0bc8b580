"""One import: what is at the source, what is made of it, and a row for each thing that is refused."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import fsspec

from medloom.connectors.images import HEAD_BYTES, MAX_BYTES, sniff
from medloom.pipelines.imports.articles import Article, Figure, to_jats
from medloom.pipelines.sources.listing import list_objects, read_object
from medloom.schemas.errors import Refused
from medloom.schemas.store import Store

if TYPE_CHECKING:
    from medloom.pipelines.imports.scans_folder import Geometry

MAX_FILE_BYTES = 256 << 20
MAX_LINE_BYTES = 16 << 20
PAPERS, REFUSED, LEDGER = "papers", "refused.jsonl", "import.json"
OURS = ("README.md", "manifest.json", "articles.jsonl", "media.jsonl", "subfigures.jsonl")  # beside a form's own files
LISTS = re.compile(r"paper_[a-z0-9]+\.csv")  # of files that the form's own walk finds
_KINDS = {"jpg": "jpg", "png": "png", "tiff": "tif", "gif": "gif"}
_PICTURE_ENDS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".gif")
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def is_safe(name: Any) -> bool:
    """Whether a name from outside may be part of a file's name and an id: no path, no white space, at most 100 long."""
    return isinstance(name, str) and _SAFE.fullmatch(name) is not None and ".." not in name


@dataclass
class Import:
    """What one import has done so far; of each kind of thing, those given are those made and those refused.

    Attributes:
        form: name of the form.
        source: folder by path or URL.
        store: the new folder.
        copies: folder of articles and figure files, for a form that holds none.
        geometry: where the voxels of a form of volumes are, which it does not say itself; None where nobody said.
    """

    form: str
    source: str
    store: Store
    copies: str = ""
    geometry: "Geometry | None" = None
    made: Counter[str] = field(default_factory=Counter)
    refused: list[dict[str, str]] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)
    _used: set[str] = field(default_factory=set)

    @cached_property
    def files(self) -> dict[str, int]:
        """Sizes of the source's files by path.

        Raises:
            SourceError: there is no such folder, or it is empty.
        """
        return {row["url"]: row["size"] for row in list_objects(self.source).to_pylist()}

    @cached_property
    def by_end(self) -> dict[str, list[str]]:
        """Paths of the source's files by their last folder and name, by which paths of another machine are found."""
        found: dict[str, list[str]] = {}
        for url in self.files:
            found.setdefault("/".join(url.split("/")[-2:]), []).append(url)
        return found

    @cached_property
    def pictures(self) -> dict[str, list[str]]:
        """Paths of picture files by their name without ending, by size, largest first."""
        found: dict[str, list[str]] = {}
        for url in sorted(self.files, key=lambda url: (-self.files[url], url)):
            if url.lower().endswith(_PICTURE_ENDS):
                found.setdefault(stem_of(url), []).append(url)
        return found

    @cached_property
    def articles(self) -> dict[str, dict[str, Any]]:
        """What an export of ours says of its articles, by name; nothing where the source is none."""
        rows = [{k: v for k, v in row.items() if isinstance(v, str | int)} for row in self.lines("articles.jsonl")]
        return {str(row["name"]): row for row in rows if isinstance(row.get("name"), str)}

    @cached_property
    def own_terms(self) -> dict[str, str]:
        """The own licences of figures that an export of ours tells, by the name of the picture's file, no ending."""
        rows = self.lines("media.jsonl")
        return {
            stem_of(str(row.get("name"))): str(row["licence_override"]) for row in rows if row.get("licence_override")
        }

    @cached_property
    def is_ours(self) -> bool:
        """Whether the source is an export of this form that MedLoom wrote."""
        try:
            manifest = parse_json(read_object(self.source, "manifest.json"))
        except Refused:
            return False
        return isinstance(manifest, dict) and manifest.get("kind") == "export" and manifest.get("form") == self.form

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Return the objects of a JSON Lines file, none where it is not there; each other line gets a row."""
        if name not in self.files:
            return []
        rows = []
        for number, line in self.raw_lines(name):
            try:
                row = parse_json(line)
                if not isinstance(row, dict):
                    raise Refused("line.form", "it is no object")
            except Refused as refused:
                self.refuse("line", f"{name}:{number}", refused)
                continue
            rows.append(row)
        return rows

    def raw_lines(self, url: str) -> Iterator[tuple[int, bytes]]:
        """Give the lines of a file that hold something, numbered from 1, one at a time; one too long gets a row."""
        try:
            read_object(self.source, url, limit_bytes=1)  # a plain file that may be read, and not an empty one
        except Refused as refused:
            self.refuse("file", url, refused)
            return
        fs, root = fsspec.core.url_to_fs(self.source)
        number = 0
        with fs.open(f"{root.rstrip('/')}/{url}", "rb") as file:
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                    self.refuse("line", f"{url}:{number}", Refused("line.large", f"more than {MAX_LINE_BYTES} bytes"))
                    while line and not line.endswith(b"\n"):
                        line = file.readline(MAX_LINE_BYTES)
                elif line.strip():
                    yield number, line

    def read(self, url: str) -> bytes:
        """Return a file of the source.

        Raises:
            Refused("file.large"): more than `MAX_FILE_BYTES`.
            Refused("source.…"): it is empty or cannot be read.
        """
        if self.files[url] > MAX_FILE_BYTES:
            raise Refused("file.large", f"{self.files[url]} bytes, the limit is {MAX_FILE_BYTES}")
        return read_object(self.source, url)

    def candidates(self, ending: str) -> list[str]:
        """Return the files that may hold the form; others that are neither pictures nor ours get a row each."""
        others = [url for url in sorted(self.files) if url not in OURS and not url.lower().endswith(_PICTURE_ENDS)]
        found = [url for url in others if url.lower().endswith(ending)]
        for url in sorted(set(others) - set(found)):
            if not LISTS.fullmatch(url):
                self.refuse("file", url, Refused("file.unknown", f"it is neither {ending} nor a picture"))
        return found

    def picture(self, url: str, to: str) -> str:
        """Copy a picture to `to` with the ending of its bytes; return its name.

        Raises:
            Refused("image.format"), ("image.missing"): it is none that is read, or is not there.
        """
        if url not in self.files:
            raise Refused("image.missing", "there is no such picture")
        self._used.add(url)
        kind = _KINDS.get(sniff(read_object(self.source, url, limit_bytes=HEAD_BYTES)), "")
        if not kind or self.files[url] > MAX_BYTES:
            raise Refused("image.format", f"it is no JPEG, PNG, TIFF or GIF of at most {MAX_BYTES} bytes")
        self.store.write(f"{to}.{kind}", read_object(self.source, url))
        return f"{to}.{kind}"

    def refuse(self, what: str, name: str, refused: Refused) -> None:
        """Count a refused thing, with a row that says why."""
        self.refused.append({"what": what, "name": name[-300:], "reason": refused.reason, "detail": refused.detail})

    def begin(self, name: str) -> None:
        """Take a name for the article that comes next.

        Raises:
            Refused("article.name"), ("article.duplicate"): it cannot be a file's, or another article has it.
        """
        if not is_safe(name) or "_" in name:
            raise Refused("article.name", f"{name[:100]!r} is no id such as PMC7500000")
        if name.lower() in self._names:
            raise Refused("article.duplicate", f"{name} was made from another file")
        self._names.add(name.lower())

    def article(self, article: Article, *, origin: str) -> None:
        """Write an article that was begun; `origin` is the file that it was made from."""
        article.note = f"{self.form}, {origin}"
        self.store.write(f"{PAPERS}/{article.name}.xml", to_jats(article))
        self.made["article"] += 1

    def figure(self, article: str, figure_id: str, *, stem: str = "", label: str = "", caption: str = "") -> Figure:
        """Return a figure with its picture copied beside the article, the file's ending by its bytes.

        Where there is no picture that can be used, a row says so; the figure stays, and one added later is found.

        Args:
            stem: what the picture is called at the source, without ending; ARTICLE_ID where it is not said.
        """
        name, refused = f"{article}_{figure_id}", Refused("image.missing", f"no picture of figure {figure_id}")
        stem = stem or name
        for url in self.pictures.get(stem, ()):
            try:
                file = self.picture(url, f"{PAPERS}/{article}/{name}").rpartition("/")[2]
            except Refused as fault:
                refused = fault
                continue
            self.made["image"] += 1
            return Figure(figure_id, file, label, caption, self.own_terms.get(stem, ""))
        self.refuse("image", stem, refused)
        return Figure(figure_id, f"{name}.jpg", label, caption, self.own_terms.get(stem, ""))

    def facts_of(self, name: str, stated: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what is known of an article: what an export of ours tells, then what the form itself states."""
        return {**self.articles.get(name, {}), **{k: v for k, v in (stated or {}).items() if v}}

    def finish(self) -> dict[str, Any]:
        """Write the rows of what was refused and the counts; return the counts."""
        for urls in self.pictures.values():
            for url in urls:
                if url not in self._used:
                    self.refuse("image", url, Refused("image.not_cited", "nothing that was read refers to it"))
        self.store.write(REFUSED, "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in self.refused).encode())
        reasons: dict[str, Counter[str]] = {}
        for row in self.refused:
            reasons.setdefault(row["what"], Counter())[row["reason"]] += 1
        counts = {}
        for what in sorted({*self.made, *reasons}):
            back = dict(sorted(reasons.get(what, Counter()).items()))
            counts[what] = {"in": self.made[what] + sum(back.values()), "made": self.made[what], "refused": back}
        done = {"format_version": 1, "kind": "import", "form": self.form, "counts": counts}
        self.store.write(LEDGER, (json.dumps(done, indent=1, sort_keys=True) + "\n").encode())
        return done


def stem_of(url: str) -> str:
    """Return a file's name without folder and ending."""
    return url.rpartition("/")[2].rpartition(".")[0]


def parse_json(data: bytes) -> Any:
    """Return what UTF-8 JSON holds; a byte order mark is passed over.

    Raises:
        Refused("json.encoding"), ("json.malformed"), ("json.deep"): it is not such.
    """
    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=_no_number)
    except UnicodeDecodeError as fault:
        raise Refused("json.encoding", f"byte {fault.start} is not UTF-8") from fault
    except RecursionError as fault:
        raise Refused("json.deep", "it is nested too deeply") from fault
    except ValueError as fault:
        raise Refused("json.malformed", str(fault)) from fault


def _no_number(text: str) -> None:
    """Read NaN and the infinities as null: what needs a number there is refused, its neighbours are not."""
