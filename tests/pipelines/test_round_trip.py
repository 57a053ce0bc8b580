"""Out and back: what leaves as a form, read again, built and released, leaves as the same bytes."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests import sources
from tests.pipelines.forms import files_of, released, write_source

from medloom.pipelines.export import export
from medloom.pipelines.import_ import import_
from medloom.schemas.errors import SourceError
from medloom.schemas.release import Release


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Release:
    folder = tmp_path_factory.mktemp("first")
    return released(folder / "out", write_source(folder / "papers"))


@pytest.fixture(scope="module")
def stood_off(first, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stood") / "off"
    export("stand_off", first.url, str(folder))
    return folder


def same_but_keys(path: Path) -> list[dict[str, Any]]:
    """Lines of articles or media without what says which bytes they were read from."""
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("source_digest", "licence_override")} for row in rows]


SLOW = [pytest.param(form, marks=pytest.mark.slow) for form in ("pmc_inline_sentences", "pmc_oa")]


@pytest.mark.parametrize("form", ["pmc_inline", *SLOW])
def test_what_left_comes_back_and_leaves_as_the_same_files(first, tmp_path, form):
    out = export(form, first.url, str(tmp_path / "a"))
    counts = import_(form, str(tmp_path / "a"), str(tmp_path / "in"))["counts"]
    assert not [count for count in counts.values() if count["refused"]]
    again = released(tmp_path / "out", tmp_path / "in/papers")
    back = export(form, again.url, str(tmp_path / "b"))
    one, other = files_of(tmp_path / "a"), files_of(tmp_path / "b")
    assert list(one) == list(other)
    told = {"README.md", "manifest.json", "articles.jsonl", "media.jsonl"}
    urls = {name for name in one if name == "pmc_oa.jsonl"}  # its addresses hold the names of the files that were read
    assert {n: d for n, d in one.items() if n not in told | urls} == {
        n: d for n, d in other.items() if n not in told | urls
    }
    for name in urls:
        rows = [[json.loads(line) for line in side[name].splitlines()] for side in (one, other)]
        assert [{**r, "media_url": "", "label": r["label"]} for r in rows[0]] == [
            {**r, "media_url": ""} for r in rows[1]
        ]
    for name in ("articles.jsonl", "media.jsonl"):
        assert same_but_keys(tmp_path / "a" / name) == same_but_keys(tmp_path / "b" / name)
    assert {what: c["written"] for what, c in out["counts"].items()} == {
        what: c["written"] for what, c in back["counts"].items()
    }


def test_stand_off_examples_are_filled_to_the_rows_and_pictures_of_the_build(first, stood_off, tmp_path):
    build = first.builds()[0]
    papers = Path(build.url).parent / "papers"
    counts = import_("stand_off", str(stood_off), str(tmp_path / "to"), copies=str(papers))["counts"]
    rows = [json.loads(line) for line in (tmp_path / "to/examples.jsonl").read_bytes().splitlines()]
    stored = {row["example_id"]: row for row in build.examples().to_pylist()}
    assert {row["example_id"]: row for row in rows} == {row["example_id"]: stored[row["example_id"]] for row in rows}
    assert counts["example"] == {"in": len(rows), "made": len(rows), "refused": {}}
    assert {"unknown", "cc-by", "cc0-1.0", "cc-by-nd"} <= {row["terms_id"] for row in rows}
    pictures = {row["key"]: build.member(row, shard) for shard, _ in build.ledgers()
                for row in build.index(shard).to_pylist() if row["field"] in ("jpg", "png")}  # fmt: skip
    media = {path.stem: path.read_bytes() for path in (tmp_path / "to/media").iterdir()}
    assert media == {key: pictures[key] for key in {key for row in rows for key in row["media"]}}


def test_a_changed_copy_costs_the_examples_that_rest_on_it(stood_off, first, tmp_path):
    copies = Path(shutil.copytree(Path(first.builds()[0].url).parent / "papers", tmp_path / "papers"))
    rich = copies / "rich.xml"
    rich.write_text(rich.read_text().replace("went home", "went away"))  # other bytes, and one sentence
    (copies / "nd.xml").write_text((copies / "nd.xml").read_text().replace("</article>", "</article>\n"))
    (copies / "doi.xml").unlink()
    wrong = Image.fromarray(np.zeros((90, 70), np.uint8))
    wrong.save(copies / "nd-g2.jpg")
    counts = import_("stand_off", str(stood_off), str(tmp_path / "to"), copies=str(copies))["counts"]
    refused = [json.loads(line) for line in (tmp_path / "to/refused.jsonl").read_bytes().splitlines()]
    rows = {r["example_id"]: r for r in map(json.loads, (stood_off / "examples.jsonl").read_bytes().splitlines())}
    lost = {
        (rows[r["name"]]["unit"][:10], rows[r["name"]]["task"], r["reason"]) for r in refused if r["what"] == "example"
    }
    doi = next(row["unit"][:10] for row in rows.values() if row["unit"].startswith("doi"))
    assert lost == {
        ("pmc9100001", "interleaved", "text.digest"), (doi, "interleaved", "article.missing"),
        (doi, "caption", "article.missing"), ("pmc9100003", "caption", "media.missing"),
        ("pmc9100003", "interleaved", "media.missing"),
    }  # fmt: skip
    assert counts["example"]["in"] == len(rows) == counts["example"]["made"] + 7
    assert counts["image"]["refused"] == {"image.missing": 1}
    made = (tmp_path / "to/examples.jsonl").read_text()
    assert "went away" not in made
    assert "pmc9100003-1-f1" in made


def test_hostile_stand_off_lines_are_refused_one_by_one(stood_off, first, tmp_path):
    folder = Path(shutil.copytree(stood_off, tmp_path / "in"))
    lines = (folder / "examples.jsonl").read_bytes().splitlines()
    row = json.loads(next(line for line in lines if b"pmc9100001" in line and b'"interleaved"' in line))

    def turned(**piece: Any) -> bytes:
        turns = [{"role": "document", "parts": [{"pieces": [piece]}]}]
        return json.dumps({**row, "example_id": f"x{len(json.dumps(piece))}", "turns": turns}).encode()

    known = {"where": "paragraph:p0", "start": 0, "end": 4}
    bad = [
        lines[0][:50], b"[]", b'{"example_id": 5}', lines[0], turned(**known, sha256="0" * 16),
        turned(**known | {"where": "paragraph:none"}, sha256="0" * 16), turned(**known | {"start": -9, "end": "b"}),
        turned(), json.dumps({**row, "example_id": "y", "media": ["../../x"]}).encode(), b"\xff\xfe\n",
        json.dumps({**row, "example_id": "z", "turns": [None]}).encode(),
        json.dumps({**row, "example_id": "u", "unit": "pmc1-1"}).encode(), b'{"example_id": NaN}',
    ]  # fmt: skip
    (folder / "examples.jsonl").write_bytes(b"\n".join([*lines, *bad]) + b"\n")
    papers = Path(first.builds()[0].url).parent / "papers"
    counts = import_("stand_off", str(folder), str(tmp_path / "to"), copies=str(papers))["counts"]
    assert counts["example"] == {"in": len(lines) + 10, "made": len(lines), "refused": {
        "article.missing": 1, "example.duplicate": 1, "example.form": 6, "text.digest": 1, "text.missing": 1,
    }}  # fmt: skip
    assert counts["line"]["refused"] == {"json.encoding": 1, "json.malformed": 1, "line.form": 1}
    with pytest.raises(SourceError, match="is no stand-off export"):
        import_("stand_off", str(papers), str(tmp_path / "x"), copies=str(papers))


BEFORE, CITING = "A man fell ill. He had pain. ", "A film was taken (Fig. 1)."
CASES = [  # id of the pictures, context, inline, question, answer
    (["F1"], BEFORE, CITING, "=What does it show?", "A mass.\nIt is large."),
    (["F1", "F2"], BEFORE, CITING, "And these?", "-Two masses."),
    (["F3"], f"{BEFORE}{CITING} It was repeated. ", "Figure 3 shows 3 cm.", "'+1?", "Growth."),
]


def test_stated_questions_come_back_as_examples_and_leave_as_the_same_csv(tmp_path):
    source = tmp_path / "csv"
    source.mkdir()
    with (source / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["PMC_id", "img_ref", "context", "inline", "question", "answer"])
        writer.writeheader()
        for ids, context, inline, question, answer in CASES:
            writer.writerow({"PMC_id": "PMC5", "img_ref": str(ids), "context": context, "inline": inline,
                             "question": question, "answer": answer})  # fmt: skip
    for seed, name in enumerate(("PMC5_F1.jpg", "PMC5_F2.jpg", "PMC5_F3.jpg")):
        (source / name).write_bytes(sources.picture_bytes(seed, "png" if seed else "jpg", size=80))
    terms = {"name": "PMC5", "licence_text": "", "terms_id": "cc-by", "pmcid": "PMC5", "attribution": "A. Author. PMC5"}
    (source / "articles.jsonl").write_text(json.dumps(terms))
    extra = "from medloom.pipelines.tasks.stated_questions import StatedQuestions"
    recipe = sources.write_recipe(
        tmp_path / "cases.py", extra=extra, sources='(Papers("papers", source),)',
        tasks="(Captions(), Interleaved(), StatedQuestions())",
    )  # fmt: skip
    import_("pmc_case_report", str(source), str(tmp_path / "in"))
    release = released(tmp_path / "out", tmp_path / "in/papers", recipe)
    stated = release.builds()[0].examples("stated_vqa").to_pylist()
    said = [[[p["text"] or p["media"] for p in turn["parts"]] for turn in row["turns"]] for row in stated]
    assert said == [
        [[*(f"pmc5-1-{one.lower()}" for one in ids), question], [answer]] for ids, _, _, question, answer in CASES
    ]
    windows = release.builds()[0].examples("interleaved").to_pylist()
    text = "".join(part["text"] for part in windows[0]["turns"][0]["parts"])
    assert (len(windows), text.strip()) == (1, CASES[2][1] + CASES[2][2])  # no question stands in the paper's text
    export("pmc_case_report", release.url, str(tmp_path / "a"))
    (table,) = (tmp_path / "a").glob("case_report_*.csv")
    rows = list(csv.DictReader(table.open(newline="")))
    assert list(rows[0]) == ["PMC_id", "img_ref", "context", "question", "answer", "inline"]
    assert [(r["img_ref"], r["context"], r["inline"], r["question"], r["answer"]) for r in rows] == [
        (str(ids), context, inline, guard(question), guard(answer)) for ids, context, inline, question, answer in CASES
    ]
    import_("pmc_case_report", str(tmp_path / "a"), str(tmp_path / "in2"))
    again = released(tmp_path / "out2", tmp_path / "in2/papers", recipe)
    export("pmc_case_report", again.url, str(tmp_path / "b"))
    for name, data in files_of(tmp_path / "a").items():
        if name.startswith("images/") or name.endswith(".csv"):
            assert data == (tmp_path / "b" / name).read_bytes()


def guard(text: str) -> str:
    return "'" + text if text.lstrip("'")[:1] in "=+-@" else text
