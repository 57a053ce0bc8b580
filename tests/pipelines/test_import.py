"""Imports of what others hand over, most of it wrong in some way: one thing wrong costs that thing and no other."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.sources import picture_bytes

from medloom.connectors.jats import parse_article
from medloom.pipelines.import_ import forms, import_
from medloom.schemas.errors import ConfigError, GateError, SourceError

LONG = "x" * 1_000_000


def write(folder: Path, **files: Any) -> Path:
    """Write files by name; `__` in a name is a dot, `/` comes in the key; values that are no bytes become JSON."""
    for name, value in files.items():
        path = folder / name.replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return folder


def run(form: str, source: Path, to: Path) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    """Import; return the counts and (what, name, reason) of what was refused, after checking that they add up."""
    counts = import_(form, str(source), str(to))["counts"]
    rows = [json.loads(line) for line in (to / "refused.jsonl").read_bytes().splitlines()]
    for what, count in counts.items():
        assert count["in"] == count["made"] + sum(count["refused"].values())
        mine = [row["reason"] for row in rows if row["what"] == what]
        assert {reason: mine.count(reason) for reason in mine} == count["refused"]
    assert json.loads((to / "import.json").read_bytes())["counts"] == counts
    assert all(row["detail"] for row in rows)
    return counts, [(row["what"], row["name"], row["reason"]) for row in rows]


def article(to: Path, name: str) -> dict[str, list[dict[str, Any]]]:
    path = to / f"papers/{name}.xml"
    return parse_article(path.read_bytes(), source=path.name)


def texts(tables: dict[str, list[dict[str, Any]]], where: str = "body") -> list[str]:
    return [p["text"] for p in tables["paragraph"] if p["where"] == where]


def good(text: str = "It was seen (Fig. 1).", **more: Any) -> dict[str, Any]:
    at = text.index("Fig. 1")
    return {
        "info": {"pmc": "1", "doi": "10.1/a"},
        "text": text,
        "img_ref": [{"id": "F1", "start": at, "end": at + 6}],
    } | more


def test_every_form_of_papers_and_of_peers_comes_back():
    from medloom.pipelines.export import forms as exports

    as_they_are = {"nifti", "webdataset", "hf"}  # a source of scans, tars that stream, rows that datasets reads
    assert list(forms()) == [name for name in exports() if name not in as_they_are]


def test_a_paper_becomes_an_article_whose_words_mean_its_figure(tmp_path):
    source = write(tmp_path / "in", **{"a/PMC1__json": good(), "b/PMC1_F1__jpg": picture_bytes(1, "png")})
    counts, refused = run("pmc_inline", source, tmp_path / "to")
    assert refused == []
    assert {what: count["made"] for what, count in counts.items()} == {"article": 1, "image": 1, "reference": 1}
    tables = article(tmp_path / "to", "PMC1")
    assert tables["article"][0]["pmcid"] == "PMC1"
    assert tables["article"][0]["terms_id"] == "unknown"  # the form states no licence
    assert tables["article"][0]["doi"] == "10.1/a"
    (mention,) = tables["mention"]
    assert (mention["text"], mention["status"], mention["fig_keys"]) == ("Fig. 1", "resolved", ["pmc1-1/article/F1"])
    assert tables["figure"][0]["media"][0]["href"] == "PMC1_F1.png"  # by its bytes, not by its name
    assert (tmp_path / "to/papers/PMC1/PMC1_F1.png").read_bytes() == picture_bytes(1, "png")


def test_files_that_are_no_papers_are_refused_one_by_one(tmp_path):
    deep = b'{"text": "x", "info": {"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}"
    source = write(
        tmp_path / "in",
        **{
            "PMC1__json": b"\xef\xbb\xbf" + json.dumps(good()).encode(), "PMC2__json": json.dumps(good()).encode()[:40],
            "PMC3__json": [{"text": "x"}], "PMC4__json": {"text": 5}, "PMC5__json": b"\xff\xfe", "PMC6__json": b"",
            "PMC7__json": deep, "copy/PMC1__json": good(), "no name__json": {"text": "x"}, "notes__txt": b"hello",
            "PMC8__json": b'{"text": NaN}', "null__json": b"null",
        },
    )  # fmt: skip
    counts, refused = run("pmc_inline", source, tmp_path / "to")
    assert counts["article"]["made"] == 1
    assert sorted(refused) == [
        ("article", "PMC2.json", "json.malformed"), ("article", "PMC3.json", "article.form"),
        ("article", "PMC4.json", "article.form"), ("article", "PMC5.json", "json.encoding"),
        ("article", "PMC6.json", "source.empty_file"), ("article", "PMC7.json", "json.deep"),
        ("article", "PMC8.json", "article.form"), ("article", "copy/PMC1.json", "article.duplicate"),
        ("article", "no name.json", "article.name"), ("article", "null.json", "article.form"),
        ("file", "notes.txt", "file.unknown"), ("image", "PMC1_F1", "image.missing"),
    ]  # fmt: skip


def test_references_are_refused_one_by_one_and_the_text_stays(tmp_path):
    text = "One (Fig. 1) and two (Fig. 2).\n\nThree (Fig. 3)."
    at = text.index("Fig. 1")
    entries = [
        {"id": "F1", "start": at, "end": at + 6}, {"id": "F9", "start": at, "end": at + 6},
        {"id": "F1", "start": at, "end": at + 6}, {"id": "F2", "start": at + 2, "end": at + 9},
        {"id": "F3", "start": 20, "end": 999}, {"id": "F3", "start": -1, "end": 3},
        {"id": "F3", "start": 25, "end": 36}, {"id": "F3", "start": 9, "end": 8},
        {"id": "../../F", "start": 0, "end": 3}, {"id": "", "start": 0, "end": 3},
        {"id": "F3", "start": "1", "end": 3}, {"id": "F3", "start": 1.0, "end": 3}, {"id": 3, "start": 1, "end": 3},
        {"id": "F3", "start": True, "end": 3}, {"id": "F3", "start": 1}, None, [], {"id": "a b", "start": 0, "end": 3},
        {"id": "F3", "start": text.index("Fig. 3"), "end": text.index("Fig. 3") + 6},
    ]  # fmt: skip
    raw = json.dumps(good(text, img_ref=entries)).replace('"start": 1.0', '"start": NaN').encode()
    source = write(tmp_path / "in", PMC1__json=raw, PMC1_F1__jpg=picture_bytes(1, "jpg"), PMC1_F7__jpg=b"\xff\xd8\xff")
    counts, refused = run("pmc_inline", source, tmp_path / "to")
    assert counts["reference"] == {"in": 19, "made": 3, "refused": {
        "reference.duplicate": 1, "reference.form": 7, "reference.id": 3, "reference.overlap": 1, "reference.span": 4,
    }}  # fmt: skip
    assert [row for row in refused if row[0] == "image"] == [
        ("image", "PMC1_F9", "image.missing"), ("image", "PMC1_F3", "image.missing"),
        ("image", "PMC1_F7.jpg", "image.not_cited"),
    ]  # fmt: skip
    tables = article(tmp_path / "to", "PMC1")
    assert texts(tables) == text.split("\n\n")
    said = [(m["text"], [k.rpartition("/")[2] for k in m["fig_keys"]]) for m in tables["mention"] if m["fig_keys"]]
    assert said == [("Fig. 1", ["F1", "F9"]), ("Fig. 3", ["F3"])]
    assert [f["xml_id"] for f in tables["figure"]] == ["F1", "F9", "F3"]  # a picture added later is found


def test_no_name_leads_out_of_the_folder(tmp_path):
    source = write(
        tmp_path / "in/deep", PMC1__json=good(info={"pmc": "../../PMC1"}), PMC1_F1__jpg=b"not a picture",
    )  # fmt: skip
    (source / "..json").write_bytes(json.dumps(good(info={})).encode())
    counts, refused = run("pmc_inline", source, tmp_path / "to")
    assert ("image", "PMC1_F1", "image.format") in refused
    assert counts["article"]["made"] == 1
    names = {str(p.relative_to(tmp_path / "to")) for p in (tmp_path / "to").rglob("*")}
    assert names == {"papers", "papers/PMC1.xml", "refused.jsonl", "import.json"}


def test_characters_that_xml_cannot_hold_keep_every_offset(tmp_path):
    text = "a\x00b\ud800 \U0001f600 <&> ]]> (Fig. 1) \x0b end."
    source = write(tmp_path / "in", PMC1__json=good(text))
    run("pmc_inline", source, tmp_path / "to")
    tables = article(tmp_path / "to", "PMC1")
    assert texts(tables) == ["a\ufffdb\ufffd \U0001f600 <&> ]]> (Fig. 1) \ufffd end."]
    assert tables["mention"][0]["text"] == "Fig. 1"


def test_sentences_say_where_but_not_which_words(tmp_path):
    sentences = [
        {"text": "It began.", "img_ref": []}, {"text": "A mass was seen.", "img_ref": ["F1", "F2"]}, {"text": 4},
        {"img_ref": ["F1"]}, "no object", {"text": "It went. \n\n", "img_ref": ["../F3", None]},
        {"text": "Figure 2 shows more.", "img_ref": ["F2"]},
    ]  # fmt: skip
    source = write(tmp_path / "in", PMC1__json=sentences, PMC2__json={"text": "x"}, PMC3__json=b"[{]")
    counts, refused = run("pmc_inline_sentences", source, tmp_path / "to")
    assert counts["sentence"] == {"in": 7, "made": 4, "refused": {"sentence.form": 3}}
    assert counts["reference"]["refused"] == {"reference.form": 1, "reference.id": 1}
    assert {("article", "PMC2.json", "article.form"), ("article", "PMC3.json", "json.malformed")} <= set(refused)
    tables = article(tmp_path / "to", "PMC1")
    assert texts(tables) == ["It began. A mass was seen. It went.", "Figure 2 shows more."]
    said = [(m["start"], m["end"], m["panels"], [k[-2:] for k in m["fig_keys"]]) for m in tables["mention"]]
    assert said == [(25, 25, {}, ["F1", "F2"]), (0, 8, {}, []), (19, 19, {}, ["F2"])]  # nobody said which words mean it


def test_captions_of_both_published_forms_become_figures(tmp_path):
    rows = [
        {"PMC_ID": "PMC1", "media_id": "F1", "caption": "One.\nMore (Figure 2).", "media_name": "one.jpg"},
        {"pmcid": "PMC1", "image": "PMC1_F2_3.jpg", "caption": "Two.", "url_name": "x"},
        {"PMC_ID": "PMC1", "media_id": "F1", "caption": "Again.", "media_name": "one.jpg"},
        {"PMC_ID": "PMC2", "media_id": "F1", "caption": 5, "media_name": "one.jpg"},
        {"PMC_ID": "../PMC2", "media_id": "F1", "caption": "x", "media_name": "one.jpg"},
        {"PMC_ID": "PMC2", "media_id": "F1", "caption": "x", "media_name": "../../etc/one.jpg"},
        {"PMC_ID": "PMC2", "media_id": "a/b", "caption": "x", "media_name": "one.jpg"},
        {"PMC_ID": "PMC3", "media_id": "F1", "caption": LONG, "media_name": "none.jpg"},
        {"PMC_ID": "pmc1", "media_id": "F1", "caption": "x", "media_name": "one.jpg"},
    ]  # fmt: skip
    data = b"\xef\xbb\xbf" + b"\n".join(json.dumps(row).encode() for row in rows) + b'\n\n{"PMC_ID": "PMC4", "med'
    source = write(
        tmp_path / "in", set__jsonl=data, one__jpg=picture_bytes(1, "jpg"), PMC1_F2_3__png=picture_bytes(2, "png"),
    )  # fmt: skip
    counts, refused = run("pmc_oa", source, tmp_path / "to")
    assert counts["line"]["refused"] == {
        "json.malformed": 1, "line.article": 1, "line.duplicate": 1, "line.form": 1, "line.id": 1, "line.picture": 1,
    }  # fmt: skip
    assert counts["line"]["made"] == 4
    assert ("article", "pmc1", "article.duplicate") in refused
    figures = article(tmp_path / "to", "PMC1")["figure"]
    assert [(f["xml_id"], f["caption"]) for f in figures] == [("F1", "One.\nMore (Figure 2)."), ("F2_3", "Two.")]
    assert article(tmp_path / "to", "PMC3")["figure"][0]["caption"] == LONG
    assert (tmp_path / "to/papers/PMC1/PMC1_F2_3.png").read_bytes() == picture_bytes(2, "png")


CASES = """PMC_id,img_ref,context,question,answer
PMC1,"['F1', 'F2']","It hurt. ","What is seen?","A mass.
It is large."
PMC1,['F1'],"It hurt. He came, again.",And here?,Nothing.
PMC1,['F1'],"It hurt. He came, again.",And here?,Nothing.
PMC2,['../F1'],x,q,a
PMC2,__import__('os').system('x'),x,q,a
PMC2,[F1,x,q,a
PMC2,['F1'],x,,a
PMC2,['F1'],x,q
PMC2,['F1'],x,q,a,more
../PMC2,['F1'],x,q,a
PMC2,['F1'],LONG,q,a
PMC2,['F1'],x,'=q,-a
"""


def test_questions_come_with_their_figures_and_answers(tmp_path):
    data = b"\xef\xbb\xbf" + CASES.replace("LONG", LONG).encode()
    source = write(
        tmp_path / "in", a__csv=data, b__csv=b"PMC_id,question\nPMC1,q\n", c__csv=b"\xff\xfe", d__csv=b"",
        PMC1_F1__jpg=picture_bytes(1, "jpg"),
    )  # fmt: skip
    counts, _ = run("pmc_case_report", source, tmp_path / "to")
    assert counts["row"]["made"] == 3
    assert counts["row"]["refused"] == {
        "row.article": 1, "row.columns": 2, "row.duplicate": 1, "row.empty": 1, "row.img_ref": 3, "row.large": 1,
    }  # fmt: skip
    assert counts["file"]["refused"] == {"csv.columns": 1, "csv.encoding": 1, "source.empty_file": 1}
    tables = article(tmp_path / "to", "PMC1")
    assert tables["article"][0]["is_case_report"]
    assert texts(tables)[0] == "It hurt. He came, again."  # one context begins the other
    assert b"'=q" in (tmp_path / "to/papers/PMC2.xml").read_bytes()  # nobody guarded it, so nothing is taken away


def test_nothing_to_read_leaves_nothing(tmp_path):
    with pytest.raises(GateError, match=r"could be read as pmc_oa: 1 file\.unknown"):
        import_("pmc_oa", str(write(tmp_path / "in", a__txt=b"x")), str(tmp_path / "to"))
    with pytest.raises(SourceError, match="is not there"):
        import_("pmc_oa", str(tmp_path / "none"), str(tmp_path / "to"))
    with pytest.raises(ConfigError, match=r"no form 'x' to import; known are m3d, pmc_case_report"):
        import_("x", str(tmp_path / "in"), str(tmp_path / "to"))
    with pytest.raises(ConfigError, match="belongs to the form stand_off"):
        import_("pmc_oa", str(tmp_path / "in"), str(tmp_path / "to"), copies=str(tmp_path))
    with pytest.raises(ConfigError, match="name the folder of your copies"):
        import_("stand_off", str(tmp_path / "in"), str(tmp_path / "to"))
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
