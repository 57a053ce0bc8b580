"""Public sets of labelled images: each on a skeleton of its real layout, and one built to its end."""

import pytest
from tests.pipelines.label_sets import SKELETONS, chestxray14, table

from medloom.connectors.label_tables.challenges import box_of_runs
from medloom.connectors.label_tables.spec import label_sets
from medloom.connectors.label_tables.vocabulary import finding_name
from medloom.pipelines.build import build
from medloom.pipelines.progress import Bars
from medloom.pipelines.sources.labelled import Labelled
from medloom.pipelines.sources.members import list_objects
from medloom.pipelines.steps import Step, Where
from medloom.pipelines.tables.labelled import read_labelled
from medloom.pipelines.tasks.findings import Findings
from medloom.pipelines.unit import MediumView, UnitView
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError, Refused, SourceError
from medloom.schemas.keys import Identity

# set: (images, official splits, {image: {(name, presence, box)}} of what the skeleton states, refused by reason)
EXPECTED = {
    "chestxray14": (4, {"train": 3, "test": 1}, {
        "00000001_000": {("cardiomegaly", "present", ()), ("pleural effusion", "present", ()),
                         ("hernia", "absent", ())},
        "00000002_000": {("infiltration", "present", ()), ("infiltration", "present", (20.0, 10.5, 32.25, 18.5))},
        "00000003_000": {("no finding", "present", ()), ("pneumothorax", "absent", ())},
    }, {"labels.none": 1}),
    "chexpert": (4, {"train": 3, "validation": 1}, {
        "train/patient00001/study1/view1_frontal.jpg": {
            ("cardiomegaly", "present", ()), ("enlarged cardiomediastinum", "absent", ()), ("edema", "uncertain", ()),
            ("pleural effusion", "present", ()), ("support devices", "present", ())},
    }, {"labels.none": 1}),
    "mimic_cxr_jpg": (3, {"train": 2, "validation": 1}, {
        "02aa804e-bde0afdd": {("edema", "present", ()), ("pneumonia", "uncertain", ()), ("pneumothorax", "absent", ())},
    }, {"labels.none": 1}),
    "openi": (3, {}, {
        "CXR1_1_IM-0001-1": {("cardiomegaly", "present", ()), ("lung", "present", ())},
        "CXR2_1_IM-0002-1": {("no finding", "present", ())},
    }, {"labels.none": 1}),
    "padchest": (2, {}, {
        "20536686640136348236148679891455886468_k6ga29": {
            ("pulmonary fibrosis", "present", ()), ("chronic changes", "present", ()), ("kyphosis", "present", ())},
    }, {"labels.none": 1}),
    "rsna_pneumonia": (3, {"train": 3}, {
        "p1": {("lung opacity", "present", ()), ("lung opacity", "present", (20.0, 10.0, 50.0, 25.0)),
               ("lung opacity", "present", (20.0, 40.0, 50.0, 55.0))},
        "p2": {("lung opacity", "absent", ()), ("other abnormality", "present", ())},
        "p3": {("lung opacity", "absent", ()), ("no finding", "present", ())},
    }, {"labels.none": 1}),
    "siim_pneumothorax": (2, {"train": 2}, {
        "1.2.276.0.7230010.3.1.4.1": {("pneumothorax", "present", ()),
                                      ("pneumothorax", "present", (200.0, 100.0, 210.0, 102.0))},
        "1.2.276.0.7230010.3.1.4.2": {("pneumothorax", "absent", ())},
    }, {"labels.none": 1}),
    "vindr_cxr": (3, {"train": 2, "test": 1}, {
        "a1": {("aortic enlargement", "present", ()), ("cardiomegaly", "absent", ()),
               ("pleural effusion", "absent", ()), ("aortic enlargement", "present", (20.0, 10.2, 40.5, 30.0))},
        "b2": {("pleural effusion", "uncertain", ()), ("no finding", "uncertain", ()), ("cardiomegaly", "absent", ())},
    }, {"labels.none": 1}),
    "vindr_mammo": (3, {"train": 2, "test": 1}, {
        "i1": {("mass", "present", (6.0, 5.5, 30.2, 20.0)),
               ("suspicious calcification", "present", (6.0, 5.5, 30.2, 20.0)), ("bi-rads 4", "present", ()),
               ("density c", "present", ())},
    }, {"labels.none": 1}),
    "vindr_spinexr": (3, {"train": 2, "test": 1}, {
        "a": {("osteophyte", "present", (2.0, 1.0, 20.0, 10.0)), ("osteophyte", "present", (2.0, 30.0, 20.0, 40.0))},
        "b": {("no finding", "present", ())},
    }, {"labels.none": 1}),
}  # fmt: skip
EXPECTED["vindr_pcxr"] = EXPECTED["vindr_cxr"]


def read(name: str, root):
    source = Labelled(name, str(root), name)
    return read_labelled(source, list_objects(str(root)), identity=Identity(), again=False)


def test_every_set_has_a_skeleton():
    assert set(label_sets()) == set(SKELETONS) == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(SKELETONS))
def test_what_a_sets_tables_say_is_joined_with_its_images(name, tmp_path):
    SKELETONS[name](tmp_path)
    images, splits, stated, refused = EXPECTED[name]
    found = read(name, tmp_path)
    assert len(found.links) == len(found.groups) == images
    counts = {split: list(found.splits.values()).count(split) for split in sorted(set(found.splits.values()))}
    assert counts == dict(sorted(splits.items()))
    (tables,) = found.tables()
    unit = {link["original_unit"]: link["unit"] for link in found.links}
    for image, expected in stated.items():
        rows = [row for row in tables["finding"].to_pylist() if row["unit"] == unit[image]]
        assert expected <= {(row["name"], row["presence"], tuple(row["box"])) for row in rows}, image
    reasons = [row["reason"] for row in found.refused]
    assert {reason: reasons.count(reason) for reason in reasons} == refused


def test_images_of_one_patient_are_one_group(tmp_path):
    chestxray14(tmp_path)
    found = read("chestxray14", tmp_path)
    group = {link["original_unit"]: found.groups[link["unit"]] for link in found.links}
    assert group["00000001_000"] == group["00000001_001"] != group["00000002_000"]


def test_no_date_and_no_age_of_a_table_enters(tmp_path):
    SKELETONS["padchest"](tmp_path)
    found = read("padchest", tmp_path)
    (tables,) = found.tables()
    said = str([found.links, found.groups, *(table.to_pylist() for table in tables.values())])
    assert "2014" not in said
    assert "1930" not in said


def test_rows_without_an_image_are_told(tmp_path, caplog):
    chestxray14(tmp_path)
    read("chestxray14", tmp_path)
    assert "speak of 1 images whose files are not there; 4 are" in caplog.text


def test_a_folder_of_another_set_says_what_is_missing(tmp_path):
    chestxray14(tmp_path)
    with pytest.raises(SourceError, match=r"CheXpert.*no file there is called like"):
        read("chexpert", tmp_path)


def test_a_table_without_a_needed_column_is_named(tmp_path):
    chestxray14(tmp_path)
    table(tmp_path / "Data_Entry_2017_v2020.csv", ["Image Index", "Finding Labels"], ["a.png", "Mass"])
    with pytest.raises(ConfigError, match="no column Patient ID"):
        read("chestxray14", tmp_path)


def test_an_unknown_set_lists_the_known_ones():
    with pytest.raises(ConfigError, match="known are chestxray14, chexpert"):
        Labelled("x", "y", "chestxray15")


@pytest.mark.parametrize(
    ("runs", "box"),
    [
        ("0 1", (0, 0, 1, 1)),
        ("5 3", (5, 0, 8, 1)),
        ("1020 8", (0, 0, 1024, 2)),  # four pixels down to the end of a column, four of the next
        ("1023 1 0 1", (0, 0, 1024, 2)),
    ],
)
def test_the_box_of_a_run_length_mask(runs, box):
    assert box_of_runs(runs, 1024) == box


@pytest.mark.parametrize("runs", ["1", "1 x", "-3 4", "1048576 1", "5 0", ""])
def test_a_run_length_mask_that_is_none_is_refused(runs):
    with pytest.raises(Refused, match=r"labels\.mask"):
        box_of_runs(runs, 1024)


def test_sets_that_call_one_finding_differently_meet():
    assert {finding_name(text) for text in ("Effusion", "Pleural Effusion", "pleural_effusion")} == {"pleural effusion"}
    assert finding_name("Pleural_Thickening") == "pleural thickening"


def view(*findings: dict) -> UnitView:
    medium = MediumView("k", "png", "DX", "chest", "", (64, 64, 1), (), "cc-by")
    rows = tuple({"unit": "k", "name": "", "side": "", "presence": "present", "stated": "", "box": [], "by": ""} | f
                 for f in findings)  # fmt: skip
    return UnitView("k", "s", "g", "train", "", "cc-by", findings=rows, media={"k": medium})


def asked(*findings: dict) -> list[tuple[str, str, str]]:
    made = Findings().examples(view(*findings), "f", None)
    return [(e.turns[0].parts[-1].text, e.turns[1].parts[0].text, ",".join(e.labels)) for e in made]


def test_as_many_questions_are_answered_no_as_yes():
    absent = [{"name": f"x{i}", "presence": "absent"} for i in range(9)]
    made = asked({"name": "mass"}, {"name": "edema"}, *absent)
    answers = [answer for _, answer, _ in made]
    assert (answers.count("Yes."), answers.count("No.")) == (2, 2)
    assert answers[0] == "mass, edema"


def test_what_is_uncertain_or_said_both_ways_is_never_asked():
    made = asked({"name": "mass", "presence": "uncertain"}, {"name": "edema"}, {"name": "edema", "presence": "absent"})
    assert made == []


def test_an_image_without_a_finding_says_so_only_when_its_table_does():
    assert asked({"name": "no finding"})[0][1] == "No finding."
    assert asked({"name": "mass", "presence": "absent"})[0][1] == "No."


def test_boxes_become_regions_within_the_image():
    made = list(Findings(forms=("where",)).examples(view({"name": "mass", "box": [-3.0, 10.5, 20.2, 90.0]}), "f", None))
    assert [region.box for region in made[0].regions] == [(0, 10, 21, 64)]
    outside = view({"name": "mass", "box": [70.0, 10.0, 90.0, 20.0]})
    assert not list(Findings(forms=("where",)).examples(outside, "f", None))


@pytest.mark.slow
def test_a_set_is_built_to_a_release(tmp_path):
    chestxray14(tmp_path / "set")
    out = str(tmp_path / "out")
    settings = {"source": str(tmp_path / "set"), "set": "chestxray14"}
    build(Step(out, Bars(quiet=True), Where("local[1]", "none"), settings), "labelled_images")
    built = Build(out)
    flow = built.manifest()["counts"]["flow"]
    assert flow["in"] + flow["made"] == flow["out"] + flow["refused"]
    rows = {row["example_id"]: row for row in built.examples("findings").to_pylist()}
    assert len(rows) >= 8
    where = [row for row in rows.values() if row["regions"]]
    assert [region["box"] for row in where for region in row["regions"]] == [[20, 10, 33, 19]]
    assert set(built.table("group")["split"].to_pylist()) == {"train", "test"}
