"""Exports of a real release: what leaves, in which form, and that everything given is found among the counts."""

import csv
import hashlib
import io
import json
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.pipelines import papers as by_hand
from tests.pipelines.forms import SAID, STAYS_OUT, TEXT, files_of, released, write_source

from medloom.connectors.jats import parse_article
from medloom.pipelines.csv_guard import guarded, unguarded
from medloom.pipelines.examples import example_row
from medloom.pipelines.export import export, forms
from medloom.pipelines.exports.anchors import Anchors
from medloom.pipelines.exports.papers import PaperText, Reference
from medloom.pipelines.exports.pmc_case_report import columns
from medloom.pipelines.exports.pmc_oa import sub_figures
from medloom.pipelines.exports.stand_off import _label
from medloom.pipelines.publish import publish
from medloom.pipelines.release import job
from medloom.pipelines.tasks.panel_captions import PanelCaptions
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError, GateError, SourceError
from medloom.schemas.medium import PanelBox
from medloom.schemas.release import Release

SENTENCE_END = re.compile(r"(?<=\.) (?=[A-Z])|\n\n")
FORMS = ("pmc_inline", "pmc_inline_sentences", "pmc_oa", "stand_off")


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Release:
    folder = tmp_path_factory.mktemp("exported")
    return released(folder / "out", write_source(folder / "papers"), max_sentences="2")


@pytest.fixture(scope="module")
def exported(release, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("forms")
    for name in FORMS:
        export(name, release.url, str(folder / name))
    return folder


@pytest.fixture
def own(release, tmp_path) -> str:
    """A copy of the build whose overlay a test may fill."""
    return str(shutil.copytree(release.builds()[0].url, tmp_path / "own"))


def paper(folder: Path, name: str) -> dict:
    return json.loads((folder / f"papers/{name}.json").read_bytes())


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_the_forms_are_the_modules_that_hold_one():
    assert sorted(forms()) == sorted(["hf", "m3d", "nifti", "radfm", "webdataset", "pmc_case_report", *FORMS])
    assert all(re.match(r"[A-Z][^\n]+[.]", about) for about in forms().values())


@pytest.mark.parametrize("form", FORMS)
def test_what_is_given_is_written_or_kept_back_by_reason(release, exported, form):
    counts = json.loads((exported / form / "manifest.json").read_bytes())["counts"]
    assert counts["examples"]["in"] == release.rows.num_rows
    assert counts["media"]["in"] == len(set(Build(release.builds()[0].url).index()["key"].to_pylist()))
    assert counts["articles"]["in"] == 9
    for count in counts.values():
        assert count["in"] == count["written"] + sum(count["kept_back"].values())
        assert all(n > 0 for n in count["kept_back"].values())
    files = files_of(exported / form)
    assert counts["articles"]["written"] == len(lines(exported / form / "articles.jsonl"))
    assert counts["media"]["written"] == len(lines(exported / form / "media.jsonl"))
    assert form == "stand_off" or counts["media"]["written"] == sum(name.startswith("images/") for name in files)


def test_a_paper_is_its_text_with_exact_spans_and_nothing_else(exported):
    for name in ("PMC9100001.2", "PMC9100003"):
        found = paper(exported / "pmc_inline", name)
        assert found["text"] == TEXT
        assert [(r["id"], TEXT[r["start"] : r["end"]]) for r in found["img_ref"]] == SAID
        assert list(found) == ["info", "text", "img_ref"]
        assert list(found["info"]) == ["article-type", "pmid", "pmc", "doi"]
    assert found["info"] == {"article-type": "case-report", "pmid": "31", "pmc": "9100003", "doi": ""}
    written = b"".join(p.read_bytes() for p in (exported / "pmc_inline/papers").iterdir()).decode()
    assert not [words for words in STAYS_OUT if words in written]


def test_papers_are_named_by_pmcid_version_or_unit(exported):
    names = {p.stem for p in (exported / "pmc_inline/papers").iterdir()}
    doi = "doi-" + hashlib.sha256(b"10.9999/rich").hexdigest()[:12]
    assert names == {"PMC9000001", "PMC9000003", "PMC9000004", "PMC9000006", "PMC9100001.2", doi, "PMC9100003"}


def test_pictures_keep_every_byte_that_is_stored_and_every_pixel_of_the_source(release, exported):
    build = release.builds()[0]
    stored = {row["key"]: (row, shard) for shard, _ in build.ledgers() for row in build.index(shard).to_pylist()
              if row["field"] in ("jpg", "png")}  # fmt: skip
    source = Path(build.url).parent / "papers"
    of = {"F1": "rich-g1.jpg", "F2": "rich-g2.jpg", "F3": "rich-g3.png"}
    for form, ending in (("pmc_inline", ".png"), ("pmc_inline_sentences", ".jpg"), ("pmc_oa", ".png")):
        told = {row["name"]: row for row in lines(exported / form / "media.jsonl")}
        assert set(told) == {p.name for p in (exported / form / "images").iterdir()}
        for name, row in told.items():
            data = (exported / form / "images" / name).read_bytes()
            assert data == build.member(*stored[row["key"]])
            assert hashlib.sha256(data).hexdigest() == row["sha256"]
        for figure, file in of.items():
            name = f"PMC9100001.2_{figure}" + (ending if file.endswith("png") else ".jpg")
            ours, theirs = Image.open(exported / form / "images" / name), Image.open(source / file)
            assert (ours.mode, np.asarray(ours).tolist()) == (theirs.mode, np.asarray(theirs).tolist())


def test_each_article_and_picture_says_its_licence_and_whom_to_name(exported):
    articles = {row["name"]: row for row in lines(exported / "pmc_inline/articles.jsonl")}
    assert articles["PMC9100003"]["terms_id"] == "cc-by-nd"
    assert articles["PMC9100001.2"]["attribution"] == "N Nobody. Rich Cases. 2021. PMC9100001"
    media = {row["name"]: row for row in lines(exported / "pmc_inline/media.jsonl")}
    assert media["PMC9100001.2_F2.jpg"]["terms_id"] == "cc-by-nc"
    assert "BY-NC" in media["PMC9100001.2_F2.jpg"]["licence_override"]
    readme = (exported / "pmc_inline/README.md").read_text()
    manifest = json.loads((exported / "pmc_inline/manifest.json").read_bytes())
    assert manifest["release"]["digest"] in readme
    assert manifest["licences"] == {"cc-by": 4, "cc-by-nd": 1, "cc0-1.0": 2}
    for name, facts in manifest["files"].items():
        data = (exported / "pmc_inline" / name).read_bytes()
        assert facts == {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def loader(folder: Path, split: str, *, window: int = 50, most: int = 3) -> list[tuple[str, list[tuple[int, Path]]]]:
    """What RadFM's loader makes of a split: sentences joined, a picture before the sentence that cites it.

    It makes the picture's path out of paper and id, passes over one that is not there, reads `window` sentences and
    stops before the sentence that would bring more than `most` pictures.
    """
    made = []
    for row in csv.DictReader((folder / f"paper_{split}.csv").open(newline="")):
        text, pictures = "", list[tuple[int, Path]]()
        for sentence in json.loads((folder / row["PMC_path"]).read_text())[:window]:
            if len(pictures) + len(sentence["img_ref"]) > most:
                break
            for figure in sentence["img_ref"]:
                path = folder / "images" / f"{Path(row['PMC_path']).stem}_{figure}.jpg"
                if path.exists():
                    Image.open(path).convert("RGB")
                    pictures.append((len(text), path))
            text += sentence["text"]
        made.append((text, pictures))
    return made


def test_the_loader_reads_the_sentences_with_every_picture(exported):
    folder = exported / "pmc_inline_sentences"
    splits = [p.stem.removeprefix("paper_") for p in folder.glob("paper_*.csv")]
    found = [paper for split in splits for paper in loader(folder, split, most=99)]
    assert len(found) == 7
    rich = next(f for f in found if any("PMC9100001.2" in p.name for _, p in f[1]))
    assert rich[0] == TEXT
    order = [(TEXT[at:].split()[0], path.stem[-2:]) for at, path in rich[1]]
    assert order == [("A", "F1"), ("The", "F1"), ("The", "F2"), ("Figure", "F2"), ("Later", "F1"), ("Later", "F2"),
                     ("Later", "F3"), ("First,", "F3")]  # fmt: skip
    cited = sum(len(s["img_ref"]) for p in (folder / "papers").iterdir() for s in json.loads(p.read_text()))
    assert sum(len(pictures) for _, pictures in found) == cited  # none was passed over
    for split in splits:
        assert all(len(pictures) <= 3 for _, pictures in loader(folder, split))


def test_sentences_joined_are_the_text_of_the_published_form(exported):
    for file in (exported / "pmc_inline_sentences/papers").iterdir():
        sentences = json.loads(file.read_text())
        assert "".join(s["text"] for s in sentences) == paper(exported / "pmc_inline", file.stem)["text"]
        assert all(list(s) == ["text", "img_ref"] for s in sentences)


def test_a_captioned_picture_is_a_line(exported):
    rows = {row["media_name"]: row for row in lines(exported / "pmc_oa/pmc_oa.jsonl")}
    row = rows["PMC9100001.2_F1.jpg"]
    assert row == {
        "PMC_ID": "PMC9100001.2", "media_id": "F1", "caption": "Caption words one.\n(A) Left view. (B) Right view.",
        "media_url": "https://pmc-oa-opendata.s3.amazonaws.com/PMC9100001.2/rich-g1.jpg",
        "media_name": "PMC9100001.2_F1.jpg", "label": "Figure 1.", "licence": "CC-BY-4.0", "terms_id": "cc-by",
    }  # fmt: skip
    assert rows["PMC9100001.2_F2.jpg"]["terms_id"] == "cc-by-nc"
    assert all((exported / "pmc_oa/images" / name).exists() for name in rows)


def test_sub_figures_are_boxes_with_what_the_caption_says_of_them():
    caption = "Lungs in two views. (A, B) Left and right view. (C) The heart from above."
    shown = by_hand.panels(caption, ("A", "(A, B)"), ("C", "(C)"))
    shown.insert(1, shown[0] | {"letter": "B"})
    figure = by_hand.figure("f1", caption, panels=shown)
    boxes = (
        PanelBox("A", (0, 0, 40, 30), 0.9),
        PanelBox("B", (0, 30, 40, 60), 0.8),
        PanelBox("C", (40, 0, 60, 60), 0.9),
    )
    view = by_hand.paper(figures=(figure,))
    view.media["pmc1-1-f1"] = replace(view.media["pmc1-1-f1"], panels=boxes)
    rows = [example_row(made) for made in PanelCaptions().examples(view, "print", None)]
    assert [sub for row in rows for sub in sub_figures(row, view)] == [
        {"key": "pmc1-1-f1", "letter": letter, "box": box, "confidence": sure, "caption": words}
        for letter, box, sure, words in (
            ("A", [0, 0, 40, 30], 0.9, "Left and right view."), ("B", [0, 30, 40, 60], 0.8, "Left and right view."),
            ("C", [40, 0, 60, 60], 0.9, "The heart from above."),
        )
    ]  # fmt: skip


def test_a_question_for_the_diagnosis_has_its_own_context():
    turns = [
        {"role": "user", "parts": [{"text": "", "media": "k"}, {"text": "She had pain.\nWhat is the diagnosis?"}]},
        {"role": "assistant", "parts": [{"text": "Arteritis"}]},
    ]
    text = PaperText("Pain. Seen (Fig. 1).", ((0, 6), (6, 20)), (Reference("F1", 12, 18),), 0, 1)
    said = {
        "img_ref": "['F1']",
        "context": "She had pain.",
        "question": "What is the diagnosis?",
        "answer": "Arteritis",
    }
    assert columns({"task": "case_diagnosis", "turns": turns}, ["F1"], text) == {**said, "inline": ""}
    said |= {"context": "Pain. ", "question": "She had pain.\nWhat is the diagnosis?", "inline": "Seen (Fig. 1)."}
    assert columns({"task": "stated_vqa", "turns": turns}, ["F1"], text) == said
    assert columns({"task": "stated_vqa", "turns": turns}, ["F2"], text)["context"] == text.text


def test_what_is_withdrawn_or_has_no_licence_is_named_nowhere(own, tmp_path):
    job.overlay(f"{own}/releases", ["group:pmc9100001"], state="withdrawn", reason="asked", by="author")
    job.overlay(f"{own}/releases", ["medium:pmc9000001-1-f1"], state="withheld", reason="blurred", by="curator")
    for form in FORMS:
        export(form, own, str(tmp_path / form))
        told = b"\n".join(data + name.encode() for name, data in files_of(tmp_path / form).items()).lower()
        named = [n for n in (b"pmc9100001", b"pmc9000005", b"pmc9000001_f1", b"pmc9000001-1-f1") if n in told]
        assert named == []  # 9000005 is retracted
        assert (b"pmc9000002" in told) == (form == "stand_off")  # it states no licence


def test_the_sentences_of_a_window_that_stays_back_are_left_out(own, tmp_path):
    release = Release(own)
    window = next(e for e in release.builds()[0].examples("interleaved").to_pylist()
                  if e["unit"] == "pmc9100001-2" and "Later" in e["turns"][0]["parts"][-1]["text"])  # fmt: skip
    job.overlay(f"{own}/releases", [f"example:{window['example_id']}"], state="withheld", reason="x", by="curator")
    export("pmc_inline", own, str(tmp_path / "to"))
    found = paper(tmp_path / "to", "PMC9100001.2")
    gone = "".join(part["text"] for part in window["turns"][0]["parts"])
    kept = [sentence for sentence in SENTENCE_END.split(TEXT) if sentence not in gone]
    assert SENTENCE_END.split(found["text"]) == kept
    assert len(kept) == 4
    said = [(r["id"], found["text"][r["start"] : r["end"]]) for r in found["img_ref"]]
    assert said == [(name, words) for name, words in SAID if any(words in sentence for sentence in kept)]


def test_the_same_release_gives_the_same_bytes(release, exported, tmp_path):
    for form in FORMS:
        export(form, release.url, str(tmp_path / form))
        assert files_of(tmp_path / form) == files_of(exported / form)


def test_one_split_is_all_that_leaves_when_it_is_named(release, exported, tmp_path):
    whole = {row["name"] for row in lines(exported / "pmc_inline/articles.jsonl")}
    found: list[str] = []
    for split in sorted(set(release.live_rows()["split"].to_pylist())):
        manifest = export("pmc_inline", release.url, str(tmp_path / split), split=split)
        assert all(c["in"] == c["written"] + sum(c["kept_back"].values()) for c in manifest["counts"].values())
        rows = lines(tmp_path / split / "articles.jsonl")
        assert {row["split"] for row in rows} == {split}
        found += [row["name"] for row in rows]
    assert sorted(found) == sorted(whole)
    with pytest.raises(ConfigError, match=r"has no split 'tran'; it has .*train"):
        export("pmc_inline", release.url, str(tmp_path / "x"), split="tran")


def test_a_used_folder_an_unknown_form_and_nothing_to_write_are_refused(release, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        export("pmc_inline", release.url, str(tmp_path / "used"))
    with pytest.raises(ConfigError, match="no form 'pmc' to export; known are hf, m3d, nifti, pmc_case_report, pmc_in"):
        export("pmc", release.url, str(tmp_path / "x"))
    with pytest.raises(ConfigError, match="no form 'writing'"):
        export("writing", release.url, str(tmp_path / "x"))
    with pytest.raises(GateError, match=r"may leave as pmc_case_report: .*withheld"):
        export("pmc_case_report", release.url, str(tmp_path / "x"))
    (tmp_path / "empty").mkdir()
    export("pmc_oa", release.url, str(tmp_path / "empty"))
    assert {p.name for p in tmp_path.iterdir()} == {"used", "empty"}  # nothing half written stays


def test_a_published_copy_has_no_text_to_export(release, tmp_path):
    publish(Release(release.url), str(tmp_path / "public"))
    with pytest.raises(SourceError, match="give the build that it was made from"):
        export("pmc_inline", str(tmp_path / "public"), str(tmp_path / "to"))


def test_stand_off_lines_hold_no_three_words_of_an_article(release, exported):
    source = Path(release.builds()[0].url).parent / "papers"
    runs: set[tuple[str, ...]] = set()
    for file in source.glob("*.xml"):
        tables = parse_article(file.read_bytes(), source=file.name)
        for text in [p["text"] for p in tables["paragraph"]] + [f["caption"] for f in tables["figure"]]:
            words = re.findall(r"\w+", text)
            runs |= {tuple(words[i : i + 3]) for i in range(len(words) - 2)}
    assert ("man", "call", "him") in runs
    rows = lines(exported / "stand_off/examples.jsonl")
    pieces = [
        piece for row in rows
        for part in [p for t in row["turns"] for p in t["parts"]] + row["evidence"]
        for piece in part.get("pieces", ())
    ]  # fmt: skip
    assert sum("where" in piece for piece in pieces) > 40
    for piece in pieces:
        words = re.findall(r"\w+", piece.get("text", ""))
        assert not runs & {tuple(words[i : i + 3]) for i in range(len(words) - 2)}
    assert not [name for name in files_of(exported / "stand_off") if name.endswith((".jpg", ".png"))]


def test_a_guarded_field_is_no_formula_and_comes_back():
    chance = random.Random(3)
    fields = ["".join(chance.choices("'=+-@\t\rab ", k=chance.randrange(6))) for _ in range(5000)]
    for field in [*fields, "", "=1+1", "'", "''=x", "-omics"]:
        assert not guarded(field).startswith(("=", "+", "-", "@", "\t", "\r"))
        assert unguarded(guarded(field)) == field
    file = io.StringIO()
    csv.writer(file).writerow([guarded("=cmd|x")])
    assert file.getvalue() == "'=cmd|x\r\n"


def test_what_stand_off_labels_say_of_an_article_is_no_text_either():
    text = "He was found to have Giant cell arteritis of the aorta."
    anchors = Anchors({"paragraph:p1": text})
    label = _label("giant cell arteritis", anchors)
    assert label == {"pieces": [anchors.span("paragraph:p1", 21, 41)], "lower": True}
    assert _label("modality", anchors) == "modality"
    mixed = _label("found to have nothing at all", anchors)
    assert anchors.text(mixed["pieces"]) == "found to have nothing at all"
    assert [piece.get("text") for piece in mixed["pieces"]] == [None, "nothing at all"]
