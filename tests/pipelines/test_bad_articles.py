"""Articles that attack the parser, or are none: each is one row with its reason, and costs no other article."""

import resource
from functools import partial
from pathlib import Path

import pytest
from tests.connectors.test_jats import BOMB, QUADRATIC, article, figure

from medloom.connectors.guard import Guard
from medloom.pipelines.sources.listing import list_objects
from medloom.pipelines.tables import papers
from medloom.pipelines.tables.pieces import pieces_by_bytes

GOOD = article('<p>See <xref ref-type="fig" rid="f1">Fig. 1</xref>.</p>' + figure("f1", "Fig. 1"))
SECRET = "what stands in another file"
# What the files of a folder hold, and the reason why each is refused.
BAD = {
    "bomb.xml": (BOMB.encode() + article('<p id="&j;">x</p>'), "jats.entities"),
    "quadratic.xml": (QUADRATIC.encode() + article(f'<p id="{"&a;" * 20_000}">x</p>'), "jats.entities"),
    "deep.xml": (article("<sec>" * 5_000 + "<p>x</p>" + "</sec>" * 5_000), "jats.deep"),
    "long_text.xml": (article("<p>" + "x" * 11_000_000 + "</p>"), "jats.large"),
    "cut.xml": (GOOD[:-9], "jats.malformed"),
    "not_utf8.xml": (GOOD.replace(b"See", b"See \xff\xfe\xe9"), "jats.malformed"),
    "latin1_unsaid.xml": (GOOD.replace(b"See", "Siehe für".encode("latin-1")), "jats.malformed"),
    "nul.xml": (GOOD.replace(b"See", b"See \x00"), "jats.malformed"),
    "page.xml": (b"<!DOCTYPE html><html><head><title>Not found</title></head><body><br>404</body></html>", ""),
    "page_well_formed.xml": (b"<?xml version='1.0'?><html><body><p>404</p></body></html>", "jats.no_article"),
    "two.xml": (b"<?xml version='1.0'?><set>" + GOOD * 2 + b"</set>", "jats.no_article"),
    "empty.xml": (b"", ""),
    "blank.xml": (b"\n \n", ""),
}
# Read without what they attack with.
HARMLESS = {
    "bomb_in_text.xml": BOMB.encode() + article("<p>&j;</p>"),
    "quadratic_in_text.xml": QUADRATIC.encode() + article(f"<p>{'&a;' * 20_000}</p>"),
    "undefined.xml": b'<!DOCTYPE article SYSTEM "JATS.dtd">' + article("<p>a&nbsp;b &unheard; c</p>"),
}


def parsed(folder: Path) -> dict[str, dict]:
    """The row of each file, as the step's workers give it."""
    pieces = pieces_by_bytes(list_objects(str(folder)), 1).to_batches()
    rows = [row for batch in papers._parse(iter(pieces), str(folder), 1) for row in batch.to_pylist()]
    assert len({row["url"] for row in rows}) == len(rows)
    return {row["url"]: row for row in rows}


def with_id(data: bytes, number: int) -> bytes:
    return data.replace(b"PMC7500000", f"PMC{number}".encode())


def test_each_bad_article_is_one_refusal_and_the_others_are_read(tmp_path: Path) -> None:
    files = {name: data for name, (data, _) in BAD.items()} | HARMLESS | {f"good{n}.xml": GOOD for n in range(4)}
    for number, (name, data) in enumerate(files.items()):
        (tmp_path / name).write_bytes(with_id(data, 7_500_000 + number))
    rows = parsed(tmp_path)
    refused = {name for name, row in rows.items() if row["reason"]}
    read = {name for name, row in rows.items() if row["article"]}
    assert refused | read == set(files)
    assert not refused & read
    assert refused >= set(BAD)
    assert read >= {f"good{n}.xml" for n in range(4)}
    for name, (_, reason) in BAD.items():
        assert rows[name]["reason"].startswith(reason), (name, rows[name]["reason"])
        assert rows[name]["reason"].startswith(("jats.", "source.")), name
        assert all(rows[name][table] == [] for table in papers.PAPER_TABLES), name
    assert all(len(row["detail"]) < 500 for row in rows.values())
    for name in ("bomb_in_text.xml", "quadratic_in_text.xml"):  # a parser may refuse them, or leave the entity unread
        assert sum(len(p["text"]) for p in rows[name]["paragraph"]) < 30_000
    assert rows["undefined.xml"]["paragraph"][0]["text"] == "a b \ufffd c"


def test_an_entity_that_names_a_file_brings_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text(SECRET)
    head = f'<!DOCTYPE article [<!ENTITY x SYSTEM "file://{tmp_path}/secret.txt">]>'
    (tmp_path / "outside.xml").write_bytes(head.encode() + article("<p>a &x; b</p>"))
    row = parsed(tmp_path)["outside.xml"]
    assert row["paragraph"][0]["text"] == "a \ufffd b"
    assert SECRET not in str(row)


def test_an_article_of_30_mb_is_read_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paragraph = "<p>" + "Many <italic>words</italic> without any mention <sup>1</sup>. " * 40 + "</p>"
    cited = '<p>See <xref ref-type="fig" rid="f1">Fig. 1</xref>B.</p>' + figure("f1", "Fig. 1")
    data = article(f"<sec><title>T</title>{cited}{paragraph * (30_000_000 // len(paragraph))}</sec>")
    assert len(data) > 29_000_000
    (tmp_path / "long.xml").write_bytes(data)
    monkeypatch.setattr(papers, "Guard", partial(Guard, memory_bytes=2 << 30))
    row = parsed(tmp_path)["long.xml"]
    assert row["reason"] == ""
    assert len(row["paragraph"]) > 10_000
    assert [m["text"] for m in row["mention"]] == ["Fig. 1B"]


def test_an_article_above_the_limit_is_refused_unread(tmp_path: Path) -> None:
    with open(tmp_path / "huge.xml", "wb") as file:
        file.write(b"<?xml version='1.0'?><article>")
        file.truncate(papers.jats.MAX_BYTES + 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert parsed(tmp_path)["huge.xml"]["reason"] == "jats.large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # kB
