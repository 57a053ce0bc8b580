"""Writing an export: its lines and pictures, whom to name for each, and counts in which everything given is found."""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import IO, Any, cast

from medloom.pipelines.csv_guard import guarded
from medloom.pipelines.exports.papers import Paper, PaperPicture, papers
from medloom.pipelines.exports.stored import StoredMedium, stored_media
from medloom.pipelines.outgoing import Outgoing
from medloom.schemas.store import Store

ARTICLES, MEDIA, IMAGES = "articles.jsonl", "media.jsonl", "images"
_ARTICLE = ("pmcid", "version", "doi", "pmid", "title", "journal", "pub_date", "article_type", "lang", "licence_code",
            "licence_url", "licence_text", "terms_id", "attribution", "source_digest", "parser_version")  # fmt: skip
_MEDIUM = ("unit", "source", "modality", "body_part", "plane", "shape", "dtype", "units", "spacing_mm", "orientation",
           "affine", "height", "width", "transforms", "face", "terms_id", "licence", "attribution")  # fmt: skip


class _Digest:
    """The size and sha256 of what is written through it."""

    def __init__(self) -> None:
        self.size, self.sha256 = 0, hashlib.sha256()

    def over(self, file: IO[bytes]) -> IO[bytes]:
        """Return itself in place of `file`."""
        self._file = file
        return cast(IO[bytes], self)

    @property
    def closed(self) -> bool:
        """Whether the file is."""
        return self._file.closed

    def write(self, data: bytes) -> int:
        """Write `data`, counted."""
        self.size += memoryview(data).nbytes
        self.sha256.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Hand on what is buffered."""
        self._file.flush()


class Writing:
    """One export being written.

    Of examples, media and articles: those given are those written and those kept back, by reason.

    Attributes:
        out: what may leave.
        store: the folder.
        licences: how many articles, or in a form of scans media, were written under each terms_id.
        licensed: what `licences` counts, "" for either.
        configs: of a form that Hugging Face reads, patterns of files by configuration and split.
    """

    def __init__(self, out: Outgoing, store: Store):
        self.out, self.store = out, store
        self.written: Counter[str] = Counter()
        self.kept_back: dict[str, Counter[str]] = {
            "examples": Counter(out.rows_back), "media": Counter(out.media_back), "articles": Counter(),
        }  # fmt: skip
        self.noted: Counter[str] = Counter()
        self.licences: Counter[str] = Counter()
        self.licensed = ""
        self.configs: dict[str, dict[str, str]] = {}
        self._open = ExitStack()
        self._files: dict[str, IO[bytes]] = {}
        self._media: set[str] = set()
        self._examples: set[str] = set()
        self._articles: set[str] = set()
        self._given: set[str] = set()
        self._digests: dict[str, dict[str, Any]] = {}
        self._gave_papers = False

    def __enter__(self) -> "Writing":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._open.__exit__(kind, value, trace)

    def papers(self) -> Iterator[Paper]:
        """Give the papers that have something to leave, as `medloom.pipelines.exports.papers.papers`."""
        self._gave_papers = True
        for paper in papers(self.out):
            self._given.add(paper.view.unit)
            yield paper

    def media(self) -> Iterator[StoredMedium]:
        """Give the media that may leave, as `medloom.pipelines.exports.stored.stored_media`."""
        return stored_media(self.out)

    def file(self, path: str, data: bytes) -> None:
        """Write a whole file."""
        with self.writing(path) as file:
            file.write(data)

    @contextmanager
    def writing(self, path: str) -> Iterator[IO[bytes]]:
        """Open a file to write, once; `stored` then tells its size and digest."""
        digest = _Digest()
        with self.store.writing(path) as file:
            yield digest.over(file)
        self._digests[path] = {"name": path, "size": digest.size, "sha256": digest.sha256.hexdigest()}

    def stored(self, medium: StoredMedium, files: dict[str, str], **more: Any) -> None:
        """Say what a medium is, whom to name for it, and which files hold it; `more` is what the form adds.

        Args:
            files: paths that were written, by what they hold ("volume", "mask").
        """
        if medium.key in self._media:
            raise ValueError(f"{medium.key} was written before")
        self._media.add(medium.key)
        facts = medium.facts
        self.licences[facts["terms_id"]] += 1
        told = {name: facts[name] for name in _MEDIUM if name in facts}
        told |= {"labelled": medium.row["labelled"] or [], "labels": medium.labels} if medium.labels else {}
        held = {what: self._digests[path] for what, path in files.items()}
        self.line(MEDIA, {"key": medium.key, "split": medium.shard.split, **told, **more, "files": held})

    def knows(self, medium: StoredMedium) -> bool:
        """Whether it was said of a medium already what it is."""
        return medium.key in self._media

    def line(self, path: str, row: dict[str, Any]) -> None:
        """Append a row to a JSON Lines file."""
        self.text(path, json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")

    def text(self, path: str, text: str) -> None:
        """Append text to a file; a lone surrogate, which UTF-8 cannot hold, becomes U+FFFD."""
        if path not in self._files:
            self._files[path] = self._open.enter_context(self.store.writing(path))
        self._files[path].write(text.encode("utf-8", "replace"))

    def row(self, path: str, row: dict[str, str]) -> None:
        """Append a row to a CSV file with a header, its fields guarded against being run as formulas."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        if path not in self._files:
            writer.writerow(row)
        writer.writerow(guarded(field) for field in row.values())
        self.text(path, file.getvalue())

    def article(self, paper: Paper) -> None:
        """Say whom to name for a paper, and under which licence it stands."""
        if self.cite(paper.name, paper.view.unit, paper.view.split, paper.view.article):
            self.licences[paper.view.terms_id] += 1

    def cite(self, name: str, unit: str, split: str, article: dict[str, Any]) -> bool:
        """Say once whom to name for the article of a unit; return whether this was the first time."""
        if unit in self._articles:
            return False
        self._articles.add(unit)
        self.written["articles"] += 1
        facts = {of: article[of] for of in _ARTICLE}
        self.line(ARTICLES, {"name": name, "unit": unit, "split": split, **facts})
        return True

    def example(self, row: dict[str, Any]) -> None:
        """Count an example as written; it may stand in several lines."""
        self._examples.add(row["example_id"])

    def back(self, what: str, reason: str, n: int = 1) -> None:
        """Count what the form has no place for."""
        if n:
            self.kept_back[what][reason] += n

    def picture(self, paper: Paper, picture: PaperPicture, *, always_jpg: bool = False) -> str:
        """Write a picture as stored, once, and return its file's name, `PMCID_figid.jpg` or `.png`.

        With `always_jpg` the name ends in .jpg whatever the bytes are: what makes names out of ids finds them, and
        decoders go by content.
        """
        layout = picture.row["layout"]
        name = f"{paper.name}_{picture.id}.{'jpg' if always_jpg else layout}"
        if picture.key in self._media:
            return name
        data = self.out.build.member(picture.row, paper.shard)
        self.store.write(f"{IMAGES}/{name}", data)
        self._media.add(picture.key)
        figure = picture.figure
        self.line(MEDIA, {
            "name": name, "article": paper.name, "id": picture.id, "key": picture.key, "format": layout,
            "sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "height": picture.row["shape"][0],
            "width": picture.row["shape"][1], "terms_id": picture.row["terms_id"],
            "licence_override": figure["licence_override"] or "", "attribution": paper.view.article["attribution"],
        })  # fmt: skip
        return name

    def facts(self, paper: Paper, picture: PaperPicture) -> dict[str, Any]:
        """Return what the build's tar says of a picture, its origin among it."""
        return dict(json.loads(self.out.build.member(picture.said, paper.shard)))

    def medium(self, key: str) -> None:
        """Count a medium as spoken of, where its bytes are not written."""
        self._media.add(key)

    def counts(self, *, articles: int, left_out: str) -> dict[str, dict[str, Any]]:
        """Return {what: {"in", "written", "kept_back"}}; what the form passed over stays back as `left_out`.

        Args:
            articles: how many the release has of the split.
        """
        written = {"articles": len(self._articles), "examples": len(self._examples), "media": len(self._media)}
        given = {
            "articles": articles,
            "examples": self.out.rows.num_rows + sum(self.out.rows_back.values()),
            "media": self.out.n_media + sum(self.out.media_back.values()),
        }
        if self._gave_papers:
            self.back("articles", "nothing_may_leave", articles - len(self._given))
        for what, n in given.items():
            self.back(what, left_out, n - written[what] - sum(self.kept_back[what].values()))
        return {
            what: {"in": n, "written": written[what], "kept_back": dict(sorted(self.kept_back[what].items()))}
            for what, n in given.items()
        }
