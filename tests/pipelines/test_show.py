import json
from pathlib import Path

import pytest
from tests.builds import synthetic_release
from tests.pipelines.small_builds import Paper, small_build

from medloom.pipelines.show import show
from medloom.pipelines.told import told
from medloom.schemas.build import Build
from medloom.schemas.errors import SourceError
from medloom.schemas.release import Release, append_overlay
from medloom.schemas.shard import shard_name
from medloom.schemas.store import Store


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    return small_build(
        tmp_path_factory.mktemp("papers") / "out",
        Paper("pmc1-1", pixels=(1,), text="A mass [/red] & more.", refused=("pmc1-1-f9",), labels=("mass",)),
        Paper("pmc2-1", pixels=(2,), terms_id="tdm", is_retracted=True),
    )


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> str:
    return synthetic_release(tmp_path_factory.mktemp("scans"), n_units=9)


def test_an_example_leads_to_evidence_article_figure_sentence_licence_and_checksum(papers):
    facts = show(Build(papers.url), papers.caption("pmc1-1-f1"))
    (evidence,), (medium,) = facts["evidence"], facts["media"]
    assert evidence["is_exact_span"]
    assert evidence["of"][evidence["start"] : evidence["end"]] == "mass"
    assert medium["article"]["attribution"] == "A. Author"
    assert medium["figure"]["label"] == "Fig. 1"
    assert medium["mentions"][0]["sentence"] == "A mass is seen in the left lung (Fig. 1)."
    assert medium["terms"]["redistribution"]
    assert medium["files"] == ["pmc1-1.xml", "pmc1-1-f1.png"]
    assert medium["bytes_checked"]
    assert facts["state"] == "in no release"
    lines = told(facts)
    for said in ("the exact words", "A. Author", "Fig. 1", "cc-by: permit", "crc32c", "pmc1-1-f1.png", "[/red] & more"):
        assert said in lines


def test_evidence_that_is_not_in_its_source_is_said_to_be_wrong(papers, tmp_path):
    made = small_build(tmp_path / "out", Paper("pmc1-1", pixels=(1,)))
    build = Build(made.url)
    path = "tables/paragraph/part-00000.parquet"
    table = build.store.read_table(path)
    shifted = [text.replace("A mass", "No mass") for text in table["text"].to_pylist()]
    build.store.write_table(path, table.set_column(table.schema.get_field_index("text"), "text", [shifted]))
    facts = show(build, made.caption("pmc1-1-f1"))
    assert facts["evidence"][0]["is_exact_span"] is False
    assert "NOT the words" in told(facts)


def test_a_scan_leads_to_affine_spacing_and_stored_bytes(scans):
    facts = show(Build(scans), "u00002-s0")
    assert facts["facts"]["affine"][2] == [0.0, 0.0, 2.5, 0.0]
    assert facts["facts"]["spacing_mm"] == [2.5, 0.8, 0.8]
    index = {
        r["field"]: r for r in Build(scans).index(shard_name("train-000000")).to_pylist() if r["key"] == "u00002-s0"
    }
    assert facts["members"]["ct.b2nd"]["crc32c"] == index["ct.b2nd"]["crc32c"]
    assert facts["tar"] == "media/train-volume-000000.tar"
    lines = told(facts)
    assert "axes x, y, z to LPS" in lines
    assert "spacing 2.5 × 0.8 × 0.8 mm (Z, Y, X)" in lines


def test_damaged_bytes_are_told(tmp_path):
    made = small_build(tmp_path / "out", Paper("pmc1-1", pixels=(1,)))
    tar = Path(made.url, "media/train-png-000000.tar")
    data = bytearray(tar.read_bytes())
    data[3000] ^= 1
    tar.write_bytes(data)
    facts = show(Build(made.url), "pmc1-1-f1")
    assert not facts["bytes_checked"]
    assert "NOT what the index says" in told(facts)


def test_a_unit_tells_its_group_shard_media_and_refusals(papers):
    facts = show(Build(papers.url), "pmc1-1")
    assert (facts["group"], facts["split"], facts["shard"]) == ("pmc1-1", "train", "train-000000")
    assert facts["media"] == ["pmc1-1-f1"]
    assert "pmc1-1-f9: media.unavailable: no file for pmc1-1-f9" in told(facts)
    assert "retracted" in told(show(Build(papers.url), "pmc2-1"))


def test_a_refused_figure_tells_why_and_of_which_article(papers):
    facts = show(Build(papers.url), "pmc1-1-f9")
    assert facts["what"] == "refusal"
    assert facts["refused"][0]["reason"] == "media.unavailable"
    assert facts["figure"]["fig_key"] == "pmc1-1-f9"
    assert "On pmc1-1" in told(facts)


def test_the_state_in_the_newest_release_is_told(scans):
    row = Release(scans).rows.filter([True] + [False] * (Release(scans).rows.num_rows - 1)).to_pylist()[0]
    assert show(Build(scans), row["example_id"])["state"] == "live in release 1"
    state = {"scope": "medium", "id": row["media"][0], "state": "withheld", "reason": "x", "by": "curator"}
    append_overlay(Store(f"{scans}/releases"), [state])
    assert show(Build(scans), row["example_id"])["state"] == "withheld in release 1"


def test_facts_are_plain_json(papers, scans):
    for facts in (show(Build(papers.url), papers.caption("pmc1-1-f1")), show(Build(scans), "u00002-s0")):
        assert json.loads(json.dumps(facts)) == facts


def test_an_unknown_id_is_one_clear_error(papers):
    with pytest.raises(SourceError, match="holds no example, medium, unit or refused object called 'pmc9'"):
        show(Build(papers.url), "pmc9")
