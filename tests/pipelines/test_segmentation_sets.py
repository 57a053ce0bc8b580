"""Every public set's real layout, as a skeleton, gives the cases, classes, splits and refusals that it should."""

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.pipelines import set_skeletons as sk

from medloom.connectors.anatomy import is_known, label
from medloom.connectors.segmentation_sets.cases import group
from medloom.connectors.segmentation_sets.spec import known_sets
from medloom.pipelines.recipe import Recipe
from medloom.pipelines.sources.cases import Cases
from medloom.pipelines.sources.local import local_copy
from medloom.pipelines.sources.members import list_objects
from medloom.pipelines.sources.set_folders import sources_of
from medloom.pipelines.sources.work import UnitMade, UnitWork
from medloom.pipelines.tables.cases import read_cases
from medloom.pipelines.tables.found import Found
from medloom.pipelines.tables.places import new_groups
from medloom.schemas.b2nd import decode
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError
from medloom.schemas.keys import Identity
from medloom.schemas.medium import Sample
from medloom.schemas.origin import TERMS
from medloom.schemas.plan import split_of
from medloom.schemas.tables import TABLES

ALL = known_sets()


def sources(folder: Path) -> tuple[Cases, ...]:
    return sources_of(str(folder), tuple(ALL.values()), is_named=False)


def tables(source: Cases) -> Found:
    """What the tables say of a source, without Spark."""
    whole = list_objects(source.root)
    mine = whole.filter(pa.array([source.takes(url) for url in whole["url"].to_pylist()], pa.bool_()))
    return read_cases(source, mine, identity=Identity(), again=False)


def rows_of(found: Found) -> dict[str, dict]:
    (given,) = list(found.tables())
    assert given["series"].schema.names == TABLES["series"].names
    return {row["unit"]: row for row in given["series"].to_pylist()}


def read(source: Cases, found: Found, unit: str) -> UnitMade:
    links = tuple(link for link in found.links if link["unit"] == unit)
    urls = [link["url"] for link in links]
    with ExitStack() as copies:
        paths = {url: copies.enter_context(local_copy(source.root, url)) for url in urls}
        work = UnitWork(
            unit=unit, source=source.name, group=found.groups[unit], split="train",
            rows={"series": [rows_of(found)[unit]]}, paths=paths, links=links, digests=dict.fromkeys(paths, "0" * 64),
            stages=(), key_id="none",
        )  # fmt: skip
        made = source.read(work)
    assert made.taken + made.made == len(made.samples) + len(made.refused)
    return made


def voxels(sample: Sample) -> dict[tuple[str, str], int]:
    """How many voxels each class of a sample has, by name and side, from its stored label map."""
    layers = decode(sample.members["seg.b2nd"].data)
    facts = json.loads(sample.members["json"].data)
    found: Counter = Counter()
    for row in facts["labels"]:
        found[row["name"], row["side"]] += int((layers[row["layer"]] == row["value"]).sum())
    return dict(found)


def reasons(made: UnitMade) -> list[str]:
    return [row.reason for row in made.refused]


def stated(labels: str) -> list[tuple[str, str]]:
    """Name and side of M3D's labels; the side by its own words alone."""
    found = [label(text) for text in labels.split("|")]
    for text, one in zip(labels.split("|"), found, strict=True):
        assert is_known(text), text
        assert one.side == ("left" if "left" in text else "right" if "right" in text else ""), text
    return [(one.name, one.side) for one in found]


def change_of(number: str):
    """The quirks of a set's masks, as its publishers' users tell them."""
    if number == "0012":  # a slope with a rounding error, an affine that differs slightly
        return lambda case, drawn, place: (drawn * np.float32(1.002), place + 0.02 * (np.arange(16).reshape(4, 4) == 3))
    if number == "0016":  # slices of the mask stored from the other end
        return lambda case, drawn, place: (
            (drawn[::-1], place @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 7], [0, 0, 0, 1.0]]))
            if case == 0 else (drawn, place)
        )  # fmt: skip
    if number == "0024":  # 3 lies further to the patient's left than 4
        return lambda case, drawn, place: (drawn[:, :, ::-1], place)
    return None


@pytest.mark.parametrize("number", sk.PLAIN)
def test_a_set_of_label_maps_is_read_as_it_lies(number, tmp_path):
    skeleton = sk.PLAIN[number]
    sk.write_plain(tmp_path / skeleton.folder, skeleton, change=change_of(number))
    (source,) = sources(tmp_path)
    assert (source.name, source.spec.number) == (skeleton.name, number)
    found = tables(source)
    units = [f"{skeleton.name}-{case}" for case in skeleton.cases]
    if number == "0024":  # a series' UID makes too long a key
        units = sorted(found.groups)
        assert len(units) == 3
        by_url = {link["url"]: link["unit"] for link in found.links}
        units = [by_url[f"LUNA16/{image}"] for image in skeleton.images]
    assert set(found.groups) == set(units)
    assert [found.splits.get(unit, "") for unit in units] == list(skeleton.splits)
    assert [rows_of(found)[unit]["modality"] for unit in units] == list(skeleton.modalities)
    together = {frozenset(pair) for pair in skeleton.same_patient}
    for i in range(len(units)):
        for j in range(i):
            assert (found.groups[units[i]] == found.groups[units[j]]) == (frozenset((i, j)) in together)
    shadow = Path(skeleton.masks[0])
    refused = {row["url"].partition("/")[2]: row["reason"] for row in found.refused}
    assert refused == {
        str(shadow.with_name("._" + shadow.name)): "source.hidden_file",
        skeleton.stray: "set.extra_file",
        **dict.fromkeys(skeleton.others, "set.unused"),
    }

    first, without, elsewhere = (read(source, found, unit) for unit in units[:3])
    (sample,) = first.samples
    assert not first.refused
    counts = {name: 3 + n % 3 for n, name in enumerate(stated(skeleton.labels))}
    assert voxels(sample) == counts
    facts = json.loads(sample.members["json"].data)
    offset = 1024 if number == "0005" else 0
    np.testing.assert_array_equal(decode(sample.members["ct.b2nd"].data), sk.values(0) - offset)
    np.testing.assert_allclose(facts["affine"], sk.affine(0), atol=1e-4)
    assert facts["units"] == "HU"
    assert set(facts["labelled"].split(", ")) == {name for name, _ in counts}
    assert reasons(without) == ["seg.missing"]
    assert without.samples[0].layout == "volume"
    assert reasons(elsewhere) == ["seg.grid"]
    assert elsewhere.samples[0].layout == "volume"
    for unit in units[3:]:  # officially without a mask
        made = read(source, found, unit)
        assert not made.refused
        assert made.samples[0].layout == "volume"


def test_the_sides_of_luna16_come_from_the_scan_and_not_from_the_number(tmp_path):
    skeleton = sk.PLAIN["0024"]
    for folder, turned in (("one", True), ("other", False)):
        sk.write_plain(
            tmp_path / folder / "LUNA16", skeleton,
            change=lambda case, drawn, place, turned=turned: (drawn[:, :, ::-1] if turned else drawn, place),
        )  # fmt: skip
        (source,) = sources(tmp_path / folder)
        found = tables(source)
        unit = next(link["unit"] for link in found.links if link["url"].startswith("LUNA16/subset0"))
        lungs = voxels(read(source, found, unit).samples[0])
        assert lungs["lung", "left"] == (3 if turned else 4)
        assert lungs["lung", "right"] == (4 if turned else 3)


def test_classes_that_the_set_does_not_name_are_refused(tmp_path):
    skeleton = sk.PLAIN["0006"]
    sk.write_plain(tmp_path / "KiTS19", skeleton, change=lambda case, drawn, place: (drawn * 3, place))
    (source,) = sources(tmp_path)
    made = read(source, tables(source), "kits19-00000")
    assert reasons(made) == ["seg.values"]
    assert "3, 6" in made.refused[0].detail


def test_a_mask_without_its_image_and_a_second_copy_of_a_case_are_refused(tmp_path):
    skeleton = sk.PLAIN["0020"]
    sk.write_plain(tmp_path / "MSD", skeleton)
    (tmp_path / "MSD" / skeleton.images[1]).rename(tmp_path / "MSD" / skeleton.images[1].replace("_10.", "_11."))
    (tmp_path / "MSD" / skeleton.masks[2]).rename(tmp_path / "MSD/Task03_Liver/labelsTr/liver_77.nii.gz")
    sk.write_plain(tmp_path / "MSD/again", skeleton)
    (source,) = sources(tmp_path)
    found = tables(source)
    told = {row["url"]: row["reason"] for row in found.refused}
    assert told["MSD/Task03_Liver/labelsTr/liver_77.nii.gz"] == "seg.no_image"
    assert told["MSD/again/Task03_Liver/imagesTr/liver_0.nii.gz"] == "series.duplicate"
    assert "msd-liver-11" in found.groups
    assert "msd-liver-10" in found.groups


def test_sets_that_share_a_folder_each_take_their_own_files(tmp_path):
    for number in ("0003", "0020", "0024", "0014", "0006"):
        sk.write_plain(tmp_path, sk.PLAIN[number])
    for hidden in (".DS_Store", ".git/config"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(b"hidden")
    made = sources(tmp_path)
    assert sorted(s.name for s in made) == ["abdomenct-1k", "kits19", "luna16", "msd-liver", "verse19"]
    everything = Counter()
    for source in made:
        found = tables(source)
        assert found.groups
        everything.update(found.listing["url"].to_pylist())
        own = {row["url"] for row in found.links} | {row["url"] for row in found.refused}
        assert own == set(found.listing["url"].to_pylist())
    assert set(everything) == set(list_objects(str(tmp_path))["url"].to_pylist())
    assert set(everything.values()) == {1}


def test_a_folder_that_is_no_known_set_is_told_with_those_that_are(tmp_path):
    (tmp_path / "mystery/deep").mkdir(parents=True)
    (tmp_path / "mystery/deep/scan.nii.gz").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"no public set is recognised.*totalsegmentator \(s\{id"):
        sources(tmp_path)
    sk.write_plain(tmp_path / "msd", sk.PLAIN["0023"])
    with pytest.raises(ConfigError, match="folders 'mystery' of the source are of none"):
        sources(tmp_path)


def test_a_source_may_be_the_sets_own_folder_or_one_inside_of_it(tmp_path):
    sk.write_plain(tmp_path / "x", sk.PLAIN["0004"])
    for folder in (tmp_path, tmp_path / "x", tmp_path / "x/dataset"):
        (source,) = sources(folder)
        assert sorted(tables(source).groups) == ["kits23-00000", "kits23-00005", "kits23-00588"]
        assert len(read(source, tables(source), "kits23-00000").samples) == 1


def test_a_source_in_a_folder_with_a_hidden_name_is_read(tmp_path):
    sk.write_plain(tmp_path / ".m3d", sk.PLAIN["0004"])
    (source,) = sources(tmp_path / ".m3d")
    assert len(tables(source).groups) == 3


def test_another_number_of_cases_than_the_set_is_known_to_have_is_told(tmp_path, caplog):
    sk.write_plain(tmp_path, sk.PLAIN["0023"])
    (source,) = sources(tmp_path)
    tables(source)
    assert "source msd-spleen has 2 cases with masks, and the set is known to have 41" in caplog.text
    caplog.clear()
    as_many = replace(source, spec=replace(source.spec, n_cases=(41, 2)))
    tables(as_many)
    assert not caplog.text


def test_every_set_but_qubiq_says_how_many_cases_it_has_and_all_have_terms():
    assert [spec.name for spec in ALL.values() if not spec.n_cases] == ["qubiq"]
    assert len(ALL) == 26
    assert all(spec.terms_id in TERMS and spec.licence and spec.attribution for spec in ALL.values())


def test_patients_of_sets_that_number_them_alike_are_one_group(tmp_path):
    for number in ("0014", "0015", "0004", "0006"):
        sk.write_plain(tmp_path / number, sk.PLAIN[number])
    place = "rawdata/sub-verse004/sub-verse004_ct.nii.gz"
    sk.write(tmp_path / f"0015/dataset-03test/{place}", sk.values(0), sk.affine(0))
    found = {source.name: tables(source) for source in sources(tmp_path)}
    assert found["verse19"].groups["verse19-verse004"] == found["verse20"].groups["verse20-verse004"]
    assert found["kits19"].groups["kits19-00000"] == found["kits23"].groups["kits23-00000"]
    assert found["verse19"].groups["verse19-verse004"] != found["kits19"].groups["kits19-00000"]


def test_the_official_split_holds_and_of_two_the_more_protected_one(tmp_path):
    sk.write_plain(tmp_path / "a", sk.PLAIN["0014"])
    sk.write_plain(tmp_path / "b", sk.PLAIN["0006"])
    found = [tables(source) for source in sources(tmp_path)]
    recipe = Recipe("r", (), (), ())
    build = Build(str(tmp_path / "out"))
    rows = {row["unit"]: row for row in new_groups(build, recipe, found, set()).to_pylist()}
    said = {unit: (row["split"], row["split_by"]) for unit, row in rows.items()}
    assert said["verse19-verse004"] == ("train", "official")
    assert said["verse19-verse400_split-verse153"] == said["verse19-verse400_split-verse155"] == ("test", "official")
    assert said["kits19-00210"] == ("test", "official")
    by_hash = split_of(rows["kits19-00000"]["group"], salt=recipe.salt, shares=recipe.shares)
    assert said["kits19-00000"] == (by_hash, "hash")


def test_a_split_that_is_recorded_stays_whatever_a_set_states_later(tmp_path):
    sk.write_plain(tmp_path / "a", sk.PLAIN["0014"])
    (source,) = sources(tmp_path)
    found, build = tables(source), Build(str(tmp_path / "out"))
    group = found.groups["verse19-verse400_split-verse155"]
    row = {"unit": "older", "source": "verse20", "group": group, "split": "train", "split_by": "hash"}
    build.store.write_table("tables/group/part-00000.parquet", pa.Table.from_pylist([row], schema=TABLES["group"]))
    rows = {row["unit"]: row for row in new_groups(build, Recipe("r", (), (), ()), [found], set()).to_pylist()}
    later = rows["verse19-verse400_split-verse153"]
    assert (later["split"], later["split_by"]) == ("train", "hash")
    assert rows["verse19-verse004"]["split_by"] == "official"


MIRRORS = {
    "abdomenct-1k": ("imagesTr/Case_00001_0000.nii.gz", "labelsTr/Case_00001.nii.gz", "00001"),
    "btcv": ("RawData/Training/img/img0001.nii.gz", "RawData/Training/label/label0001.nii.gz", "0001"),
    "verse19": ("VerSe19/verse004.nii.gz", "VerSe19/verse004_seg.nii.gz", "verse004"),
    "verse20": (
        "01_training/rawdata/sub-verse500/sub-verse500_ct.nii.gz",
        "01_training/derivatives/sub-verse500/sub-verse500_seg-vert_msk.nii.gz", "verse500",
    ),
    "msd-liver": (
        "Task03_Liver.tar!/Task03_Liver/imagesTr/liver_0.nii.gz",
        "Task03_Liver.tar!/Task03_Liver/labelsTr/liver_0.nii.gz", "0",
    ),
    "flare22": (
        "Training/FLARE22_LabeledCase50/images.zip!/FLARE22_Tr_0001_0000.nii.gz",
        "Training/FLARE22_LabeledCase50/labels.zip!/FLARE22_Tr_0001.nii.gz", "tr-0001",
    ),
    "totalsegmentator": (
        "Totalsegmentator_dataset.zip!/Totalsegmentator_dataset/s0011/ct.nii.gz",
        "Totalsegmentator_dataset.zip!/Totalsegmentator_dataset/s0011/segmentations/liver.nii.gz", "s0011",
    ),
    "chaos": ("Train_Sets/CT/1/DICOM_anon/i0000,0000b.dcm", "Train_Sets/CT/1/Ground/liver_GT_000.png", "ct-1"),
    "word": ("imagesVa/word_0001.nii.gz", "labelsVa/word_0001.nii.gz", "0001"),
    "luna16": ("subset3/1.2.3.mhd", "seg-lungs-LUNA16/1.2.3.mhd", "1.2.3"),
}  # fmt: skip


@pytest.mark.parametrize("name", MIRRORS)
def test_archives_and_mirrors_of_a_set_give_the_same_cases(name):
    image, mask, case = MIRRORS[name]
    grouped = group(ALL[name], [mask, f"__MACOSX/{image}", image])
    assert [(c.name, c.images, c.masks) for c in grouped.cases] == [(case, (image,), (mask,))]
    assert [reason for reason, _ in grouped.refused.values()] == ["source.hidden_file"]


def test_ids_are_matched_whole_and_slices_are_in_the_order_of_their_numbers():
    urls = [f"FLARE22_LabeledCase50/{k}/FLARE22_Tr_{n}.nii.gz" for n in ("0001", "00011") for k in ("labels",)]
    urls += [f"FLARE22_LabeledCase50/images/FLARE22_Tr_{n}_0000.nii.gz" for n in ("0001", "00011")]
    cases = group(ALL["flare22"], urls).cases
    assert [(len(case.images), len(case.masks)) for case in cases] == [(1, 1), (1, 1)]
    slices = [f"3Dircadb1.1/PATIENT_DICOM/image_{k}" for k in (10, 9, 0, 100)]
    (case,) = group(ALL["3d-ircadb-01"], slices).cases
    assert [url.rpartition("_")[2] for url in case.images] == ["0", "9", "10", "100"]


def test_names_that_any_set_could_have_need_the_sets_folder_or_its_name(tmp_path):
    sk.write_plain(tmp_path / "mine", sk.PLAIN["0005"])
    with pytest.raises(ConfigError, match="no public set is recognised"):
        sources(tmp_path)
    (source,) = sources_of(str(tmp_path), (ALL["kipa22"],), is_named=True)
    assert sorted(tables(source).groups) == ["kipa22-1", "kipa22-17", "kipa22-70"]


def test_the_header_of_a_metaimage_comes_before_its_voxels(tmp_path):
    urls = [f"training-{a}/{b}001.{end}" for a, b in (("scans/scan", "liver-orig"), ("labels/label", "liver-seg"))
            for end in ("raw", "mhd")]  # fmt: skip
    (case,) = group(ALL["sliver07"], urls).cases
    assert [url[-3:] for url in (*case.images, *case.masks)] == ["mhd", "raw", "mhd", "raw"]


def test_amos_is_mr_from_501_to_600_and_every_id_is_one_or_the_other():
    spec = ALL["amos22"]
    ids = [*range(1, 601), 5001, 5514, 6200]
    cases = group(spec, [f"imagesTr/amos_{n:04d}.nii.gz" for n in ids if n <= 600]
                  + [f"imagesTs/amos_{n:04d}.nii.gz" for n in ids if n > 600]).cases  # fmt: skip
    modality = {int(case.name): spec.parts[case.part].modality for case in cases}
    assert modality == {n: "MR" if 501 <= n <= 600 else "CT" for n in ids}
    assert {case.split for case in cases if int(case.name) > 600} == {"test"}


def test_the_cases_of_ct_org_and_kits19_are_split_as_their_publishers_say():
    volumes = [f"OrganSegmentations/volume-{n}.nii.gz" for n in range(140)]
    ct_org = {int(case.name): case.split for case in group(ALL["ct-org"], volumes).cases}
    assert ct_org == {n: "test" if n <= 20 else "train" for n in range(140)}
    scans = [f"data/case_{n:05d}/imaging.nii.gz" for n in range(300)]
    kits19 = {int(case.name): case.split for case in group(ALL["kits19"], scans).cases}
    assert kits19 == {n: "test" if n >= 210 else "" for n in range(300)}


def test_every_class_of_every_set_has_a_name_and_totalsegmentator_has_those_of_both_versions():
    for spec in ALL.values():
        words = dict(spec.aliases)
        for drawn in {c.stated for part in spec.parts for c in part.classes}:
            assert is_known(words.get(drawn, drawn), within=spec.within), (spec.name, drawn)
    total = [c.stated for c in ALL["totalsegmentator"].parts[0].classes]
    only_1 = {"face", "pulmonary_artery", "heart_myocardium"} | {
        f"heart_{part}_{side}" for part in ("atrium", "ventricle") for side in ("left", "right")
    }
    first, added = total[:104], total[104:]
    assert first == sorted(first)
    assert only_1 <= set(first)
    assert len(set(first) - only_1) + len(set(added)) == 117
    assert len({(label(text).name, label(text).side) for text in total}) == 124
