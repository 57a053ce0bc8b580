"""The data card with real readers: Hugging Face `datasets` finds tars and rows by its configs alone."""

import json
import re
import shutil

import pytest

from medloom.quality.card import card_text, shown_parameters, write_card
from medloom.quality.croissant import croissant
from medloom.schemas import b2nd
from medloom.schemas.keys import canonical_json, sha256_hex
from medloom.schemas.shard import ShardName

datasets = pytest.importorskip("datasets", reason="needs datasets")
LAYOUTS = {
    "jpg": {"train": 5, "test": 1},
    "png": {"train": 5, "test": 1},
    "volume": {"train": 5},
    "volume-seg": {"train": 3},
}
FIELDS = {
    "jpg": {"jpg"},
    "png": {"png"},
    "volume": {"ct.b2nd", "thumb.jpg"},
    "volume-seg": {"ct.b2nd", "seg.b2nd", "thumb.jpg"},
}


@pytest.fixture
def published(build, release, tmp_path):
    """A folder as it is published: media, examples, and a card in each of the two places."""
    folder = tmp_path / "published"
    for name in ("media", "examples"):
        shutil.copytree(build.store.local(name), folder / name)
    shutil.copytree(build.store.local("index"), folder / "index")
    (folder / "README.md").write_text(card_text(build, release, root=""))
    (folder / "examples" / "README.md").write_text(card_text(build, release, root="", of="examples"))
    return folder


def load(folder, name, tmp_path):
    return datasets.load_dataset(str(folder), name=name, cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_folder_loads_each_layout_by_its_config(published, build, layout, tmp_path):
    loaded = load(published, layout, tmp_path)
    assert {split: part.num_rows for split, part in loaded.items()} == LAYOUTS[layout]
    assert set(loaded["train"].features) == FIELDS[layout] | {"json", "__key__", "__url__"}
    for split, part in loaded.items():
        rows = build.index(ShardName(split, 0)).to_pylist()
        assert set(part["__key__"]) == {row["key"] for row in rows if row["layout"] == layout}
    sample = loaded["train"][0]
    assert sample["json"]["key"] == sample["__key__"]
    if layout == "volume":
        assert list(b2nd.decode(sample["ct.b2nd"]).shape) == sample["json"]["shape"]


@pytest.mark.parametrize(("task", "counts"), [("caption", {"train": 18, "test": 2}), ("vqa", {"train": 5, "test": 1})])
def test_a_published_folder_loads_each_task_by_its_config(published, build, task, counts, tmp_path):
    loaded = load(published / "examples", task, tmp_path)
    assert {split: part.num_rows for split, part in loaded.items()} == counts
    written = {row["example_id"]: row for row in build.examples(task).to_pylist()}
    for part in loaded.values():
        for row in part:
            assert row == {name: written[row["example_id"]][name] for name in row}
    assert {"turns", "regions", "evidence", "media"} <= set(loaded["train"].features)


def test_the_cards_of_a_build_lead_from_report_to_its_files(build, release, tmp_path):
    write_card(build, release)
    report = build.store.local("report")
    assert load(report, "volume", tmp_path)["train"].num_rows == 5
    assert load(report, None, tmp_path)["test"].num_rows == 1
    assert load(report / "examples", "vqa", tmp_path)["train"].num_rows == 5


def test_cards_leave_the_manifest_as_it_is(build, release):
    from medloom.schemas.manifest import list_files

    before = list_files(build.store)
    write_card(build, release)
    assert list_files(build.store) == before


def test_configs_name_no_split_that_has_no_file(build):
    text = card_text(build, None, root="")
    assert "media/train-volume-[0-9]*.tar" in text
    assert "media/test-volume-[0-9]*.tar" not in text
    assert re.findall(r'config_name: "([^"]*)"', text) == list(LAYOUTS)
    assert text.count("default: true") == 1


def test_the_card_counts_names_licences_and_pins(build, release):
    text = card_text(build, release, root="")
    assert 'license: ["cc-by-4.0", "cc-by-nc-4.0", "other"]' in text
    assert "| volume-seg | 3 | 3 |" in re.sub(r"\| 0 ", "", text)
    assert "| figure | 2 | 10 | 12 |" in text
    assert "| cc-by-nc | CC-BY-NC-4.0 | 4 | 6 | yes | yes | no | any |" in text
    assert f"| release | 1, sha256 {release.digest} |" in text
    assert "21 of 26 rows are live" in text
    assert "| vqa | rule:location@1 model:smol@0f0f | 6 |" in text


def test_cells_neither_end_a_row_nor_start_html(build, change):
    print_ = dict(build.tasks())["vqa"]
    for part in build.example_parts("vqa", print_):
        change(build, part, lambda row: {"generator": "a | b\n<script>"})
    assert "| vqa | a \\| b \\<script\\> | 6 |" in card_text(build, None, root="")


def test_locations_do_not_enter_a_card(build):
    assert shown_parameters({"source": "/home/jane/x", "bucket": "s3://jane", "spacing_mm": 1.5, "llm": "none"}) == {
        "source": "(a location)", "bucket": "(a location)", "spacing_mm": "1.5", "llm": "none",
    }  # fmt: skip
    manifest = build.manifest()
    manifest["recipe"]["parameters"] = {"source": "/home/jane/x"}
    build.store.write("manifests/0001.json", canonical_json(manifest).encode())
    for of in ("media", "examples"):
        assert "jane" not in card_text(build, None, root="", of=of)
    assert "jane" not in json.dumps(croissant(build, None, root=""))


def test_croissant_lists_every_data_file_with_its_sha256(build):
    listed = {
        entry["contentUrl"]: entry for entry in croissant(build, None, root="")["distribution"] if "sha256" in entry
    }
    written = {
        f"{folder}/{path.relative_to(build.store.local(folder))}"
        for folder in ("media", "index", "examples")
        for path in build.store.local(folder).rglob("*.*")
    }
    assert set(listed) == written
    for path, entry in listed.items():
        assert entry["sha256"] == sha256_hex(build.store.read(path))
        assert entry["contentSize"] == f"{build.store.size(path)} B"


def test_croissant_refers_only_to_what_it_defines(build, release):
    found = croissant(build, release, root="../")
    ids = [entry["@id"] for entry in found["distribution"]] + [entry["@id"] for entry in found["recordSet"]]
    fields = [field for record in found["recordSet"] for field in record["field"]]
    assert len(ids) == len(set(ids))
    assert {field["source"]["fileSet"]["@id"] for field in fields} <= set(ids)
    assert {record["key"]["@id"] for record in found["recordSet"]} <= {field["@id"] for field in fields}
    columns = set(build.store.read_table(build.example_parts("vqa", dict(build.tasks())["vqa"])[0]).column_names)
    assert {field["source"]["extract"]["column"] for field in fields} <= columns
    assert found["@context"]["cr"] == "http://mlcommons.org/croissant/"
    assert found["version"] == "1.0.0"
