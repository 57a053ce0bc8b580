"""Masks to language: what is asked holds of the masks, as counted here voxel by voxel."""

import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from tests.pipelines.masks import LPS, abdomen, blocks, masked, random_unit
from tests.pipelines.papers import medium, paper, scan

from medloom.pipelines.tasks.referring import (
    ReferringComprehension,
    ReferringGeneration,
    described,
)
from medloom.pipelines.tasks.referring_segmentation import IS_REASONING, ReferringSegmentation
from medloom.pipelines.tasks.region_questions import RegionQuestions
from medloom.pipelines.tasks.region_words import spoken
from medloom.pipelines.tasks.segmentation import Segmentation
from medloom.schemas.errors import Refusal
from medloom.schemas.example import Example
from medloom.schemas.volume import Label

TASKS = (Segmentation(), ReferringComprehension(), ReferringGeneration(), ReferringSegmentation(), RegionQuestions())
UNITS = [abdomen(), *(random_unit(seed) for seed in range(12))]


def rows(task, unit) -> list[Example]:
    made = list(task.examples(unit, "print", None))
    assert not [m for m in made if isinstance(m, Refusal)]
    return made


def asked(row: Example) -> str:
    return row.turns[0].parts[1].text


def answered(row: Example) -> str:
    return row.turns[1].parts[0].text


def regions_of(unit) -> dict:
    (view,) = unit.media.values()
    return {spoken(r.label): r for r in view.regions}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task)
def test_every_row_speaks_of_regions_of_its_medium_in_its_own_words(task):
    for unit in UNITS:
        known = regions_of(unit)
        made = rows(task, unit)
        assert made == rows(task, unit)
        assert len({row.example_id for row in made}) == len(made)
        assert [row.media for row in made] == [tuple(unit.media)] * len(made)
        for row in made:
            assert row.labels
            assert not re.search(r"[{}]", asked(row) + answered(row))
            for region in row.regions:
                meant = known[f"{region.side} {region.name}".strip()]
                assert (region.layer, region.value, region.box) == (meant.layer, meant.value, meant.box)
                assert meant.voxels
                assert region.phrase in f"{asked(row)}\n{answered(row)}"


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task)
def test_neither_papers_nor_pictures_nor_unmeasured_masks_are_asked_about(task):
    assert rows(task, paper()) == []
    assert rows(task, scan(medium("x"))) == []
    (view,) = abdomen().media.values()
    unmeasured = [replace(r, voxels=0, volume_ml=0.0, box=(0,) * 6) for r in view.regions]
    assert rows(task, scan(replace(view, regions=tuple(unmeasured)))) == []


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task)
def test_a_class_that_was_not_labelled_is_never_named(task):
    (view,) = abdomen().media.values()
    partial = replace(view, labelled=tuple(n for n in view.labelled if n not in ("prostate", "duodenum")))
    said = "\n".join(asked(row) + answered(row) for row in rows(task, scan(partial)))
    assert not re.search(r"\bprostate\b|(?<!curve of )the duodenum|no duodenum|\. duodenum", said)
    assert "liver" in said


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task)
def test_a_name_of_two_classes_is_not_asked_for(task):
    labels = {1: Label("tumor"), 2: Label("tumor"), 3: Label("kidney"), 4: Label("kidney", "left"), 5: Label("spleen")}
    array = blocks((1, 1, 1, 3, 9, 9), (5, 1, 1, 9, 9, 9), (1, 20, 20, 5, 30, 30), (6, 20, 20, 8, 30, 30),
                   (10, 20, 2, 14, 30, 9))  # fmt: skip
    made = rows(task, scan(masked(labels, array)))
    assert {r.name for row in made for r in row.regions} <= {"kidney", "spleen"}
    assert {r.side for row in made for r in row.regions if r.name == "kidney"} <= {"left"}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task)
def test_sides_that_the_geometry_contradicts_are_refused_and_not_asked_for(task):
    (view,) = abdomen().media.values()
    mirrored = replace(view, affine=tuple((LPS * np.array([-1, 1, 1, 1])).ravel()))
    made = list(task.examples(scan(mirrored), "print", None))
    refused = [m for m in made if isinstance(m, Refusal)]
    assert [(r.key, r.reason) for r in refused] == [("ct-abc", "region.mirrored")]
    assert "left kidney" in refused[0].detail
    kept = [m for m in made if isinstance(m, Example)]
    assert kept
    assert not [r for row in kept for r in row.regions if r.name == "kidney"]


def test_segmentation_asks_for_what_is_there_and_says_what_is_not():
    made = rows(Segmentation(), abdomen())
    there = [row for row in made if row.regions]
    assert [row.labels[0] for row in there] == [
        "liver", "spleen", "left kidney", "right kidney", "pancreas", "aorta",
    ]  # fmt: skip
    gone = [row for row in made if not row.regions]
    assert [row.labels[0] for row in gone] == ["no urinary bladder", "no prostate", "no duodenum"]
    for row in gone:
        assert f"there is {row.labels[0]}" in answered(row).lower()
        assert row.labels[0].removeprefix("no ") in asked(row)
    few = rows(Segmentation(most=2, most_absent=9), abdomen())
    assert Counter(bool(row.regions) for row in few) == {True: 2, False: 2}
    every = {row.example_id: row for row in made}
    assert all(every[row.example_id] == row for row in few)


def test_a_box_is_said_as_it_is_in_the_array():
    (view,) = abdomen().media.values()
    for row in rows(ReferringComprehension(), abdomen()):
        z0, y0, x0, z1, y1, x1 = row.regions[0].box
        box = [round(1000 * at / n) for at, n in zip((z0, y0, x0, z1, y1, x1), (*view.shape, *view.shape), strict=True)]
        assert answered(row).count(str(box)) == 1
        assert not re.search(r"\[\d", asked(row))
        assert row.regions[0].phrase in asked(row)


def test_descriptions_do_not_name_what_they_mean():
    made = rows(ReferringComprehension(forms=("description",)), abdomen())
    assert len(made) == 6
    for row in made:
        assert row.regions[0].name not in asked(row)
        assert row.regions[0].side in asked(row)


def test_a_box_that_a_neighbour_shares_is_not_asked_about_but_may_be_asked_for():
    labels = {1: Label("liver"), 2: Label("liver tumor"), 3: Label("spleen")}
    array = blocks((2, 2, 2, 12, 20, 20), (2, 2, 2, 11, 20, 20), (2, 25, 25, 8, 33, 33))
    array[2, 2, 2] = array[10, 19, 19] = 1  # around the tumor: nearly its box
    unit = scan(masked(labels, array))
    assert {row.labels[0] for row in rows(ReferringGeneration(), unit)} == {"spleen"}
    assert {row.labels[0] for row in rows(ReferringComprehension(), unit)} == {"liver", "liver tumor", "spleen"}


def test_both_sides_in_one_class_have_a_mask_but_no_box():
    labels = {1: Label("kidney"), 2: Label("liver")}
    unit = scan(masked(labels, blocks((2, 2, 2, 8, 9, 9), (10, 20, 20, 14, 33, 33))))
    assert {row.labels[0] for row in rows(Segmentation(), unit)} == {"kidney", "liver"}
    for task in (ReferringComprehension(), ReferringGeneration(), ReferringSegmentation(types=("description",))):
        assert {row.labels[0] for row in rows(task, unit)} == {"liver"}


def test_a_generated_description_says_size_and_place_only_of_what_ends_in_the_scan():
    boxes = ((2, 8, 2, 14, 30, 18), (9, 20, 28, 16, 30, 36))
    unit = scan(masked({1: Label("liver"), 2: Label("spleen")}, blocks(*boxes)))
    liver, spleen = (answered(r) for r in rows(ReferringGeneration(forms=("description",)), unit))
    volume = 12 * 22 * 16 * 0.8 * 0.8 * 2.5 / 1000
    assert f"its volume is {volume:.2f} mL" in liver
    assert "the longest side of its box is 30 mm" in liver  # 12 slices of 2.5 mm
    assert "right" in liver
    assert "left" in spleen
    assert "reaches its edge" in spleen
    assert "mL" not in spleen


def test_descriptions_and_reasoning_are_told_apart_and_answered_with_a_mask():
    made = [row for unit in UNITS for row in rows(ReferringSegmentation(), unit)]
    kinds = Counter(row.measured[IS_REASONING] for row in made)
    assert min(kinds[0.0], kinds[1.0]) > 20
    for row in made:
        (region,) = row.regions
        assert spoken(Label(region.name, region.side)) in answered(row)
        if row.measured[IS_REASONING]:
            assert len(re.findall(r"the [a-z ]+?(?=,| and | has | reaches | lies |\. )", asked(row))) >= 2


def test_each_fact_singles_out_its_structure_by_count_of_voxels():
    facts = Counter()
    for unit in UNITS + [random_unit(seed) for seed in range(100, 140)]:
        known = regions_of(unit)
        (view,) = unit.media.values()
        affine = np.array(view.affine).reshape(4, 4)
        for row in rows(ReferringSegmentation(types=("reasoning",)), unit):
            question, (target,) = asked(row), row.labels
            listed, fact = _listed(question, known)
            assert target in listed
            assert len(listed) == 3
            facts[fact.split()[0] if "furthest" not in fact else "furthest"] += 1
            holds = [name for name in listed if _holds(fact, name, known, affine)]
            if "largest" in fact or "smallest" in fact or "furthest" in fact:
                holds = [max(listed, key=lambda n: _score(fact, n, known, affine))]
            assert holds == [target], (question, holds)
    assert {"has", "furthest", "lies"} <= set(facts)
    assert min(facts.values()) >= 5


def _listed(question: str, known: dict) -> tuple[list[str], str]:
    fact = re.search(
        r"has the (?:largest|smallest) volume|has a volume above [0-9.,]+ mL|reaches furthest (?:up|down|forward|"
        r"backward|to the patient's left|to the patient's right)|lies wholly (?:superior|inferior|anterior|posterior|"
        r"to the patient's left|to the patient's right) (?:to|of) the [a-z ]+?(?=[.?,]|$)", question
    )  # fmt: skip
    assert fact, question
    rest = question.replace(fact[0], "")
    return sorted((n for n in known if f"the {n}" in rest), key=rest.index), fact[0]


def _box(name: str, known: dict, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z0, y0, x0, z1, y1, x1 = known[name].box
    ends = np.array([(x0, y0, z0, 1), (x1 - 1, y1 - 1, z1 - 1, 1)]) @ affine.T  # centres of the outermost voxels
    return ends[:, :3].min(axis=0), ends[:, :3].max(axis=0)


def _score(fact: str, name: str, known: dict, affine: np.ndarray) -> float:
    low, high = _box(name, known, affine)
    return {
        "has the largest volume": known[name].voxels, "has the smallest volume": -known[name].voxels,
        "reaches furthest up": high[2], "reaches furthest down": -low[2], "reaches furthest backward": high[1],
        "reaches furthest forward": -low[1], "reaches furthest to the patient's left": high[0],
        "reaches furthest to the patient's right": -low[0],
    }[fact]  # fmt: skip


def _holds(fact: str, name: str, known: dict, affine: np.ndarray) -> bool:
    if "above" in fact:
        return known[name].volume_ml > float(re.search(r"[0-9.,]+(?= mL)", fact)[0].replace(",", ""))
    if not fact.startswith("lies"):
        return True
    base = next(n for n in sorted(known, key=len, reverse=True) if fact.endswith(f"the {n}"))
    (low, high), (base_low, base_high) = _box(name, known, affine), _box(base, known, affine)
    words = fact.removeprefix("lies wholly ").removesuffix(f" the {base}")
    return bool({
        "superior to": low[2] > base_high[2], "inferior to": high[2] < base_low[2],
        "posterior to": low[1] > base_high[1], "anterior to": high[1] < base_low[1],
        "to the patient's left of": low[0] > base_high[0], "to the patient's right of": high[0] < base_low[0],
    }[words])  # fmt: skip


def _options(row: Example) -> dict[str, str]:
    return dict(re.findall(r"^([A-D])\. (.+)$", asked(row), re.MULTILINE))


def test_choices_are_distinct_and_hold_the_answer_once():
    for unit in UNITS:
        for row in rows(RegionQuestions(forms=("choice",)), unit):
            options = _options(row)
            assert len(set(options.values())) == len(options) >= 2
            letter, words = answered(row).split(". ", 1)
            assert options[letter] == words == row.labels[0]


def test_volumes_sides_and_sizes_are_those_of_the_masks():
    kinds = Counter()
    for unit in UNITS:
        known = regions_of(unit)
        (view,) = unit.media.values()
        for row in rows(RegionQuestions(forms=("open",)), unit):
            names = [spoken(Label(r.name, r.side)) for r in row.regions]
            if "mL" in row.labels[0]:
                kinds["volume"] += 1
                said = float(row.labels[0].removesuffix(" mL").replace(",", ""))
                exact = known[names[0]].voxels * 0.8 * 0.8 * 2.5 / 1000
                assert said == pytest.approx(exact, rel=0.005)
                box = known[names[0]].box
                assert min(box[:3]) > 0
                assert all(high < n for high, n in zip(box[3:], view.shape, strict=True))
            elif row.labels[0] in ("left", "right"):
                kinds["side"] += 1
                assert row.regions[0].side == row.labels[0]
                assert answered(row) == f"{row.labels[0].capitalize()}."
            elif len(names) == 2:
                kinds["larger"] += 1
                larger = max(names, key=lambda name: known[name].voxels)
                assert row.labels[0] == f"the {larger}"
                assert known[larger].voxels >= 1.25 * min(known[name].voxels for name in names)
    assert min(kinds[k] for k in ("volume", "larger")) > 10
    assert kinds["side"] == 2


def test_as_many_answers_are_yes_as_no_and_each_is_true():
    total = 0
    for unit in UNITS:
        known = regions_of(unit)
        made = rows(RegionQuestions(kinds=("presence",), forms=("open",)), unit)
        says = Counter(answered(row).split(",")[0] for row in made)
        assert says["Yes"] == says["No"]
        total += says["Yes"]
        for row in made:
            meant = [n for n in known if re.search(rf"\bthe {n}\b", asked(row))]
            assert [known[n].voxels > 0 for n in meant] == [answered(row).startswith("Yes")]
    assert total > 15


@pytest.mark.parametrize("kind", ["volume", "side", "larger"])
def test_every_letter_and_every_rank_is_as_often_right(kind):
    (view,) = abdomen().media.values()
    units = [scan(replace(view, key=f"ct-{n}"), unit=f"ct-{n}") for n in range(150)]
    made = [row for u in units for row in rows(RegionQuestions(kinds=(kind,), forms=("choice",)), u)]
    letters = Counter(answered(row)[0] for row in made)
    n_options = len(_options(made[0]))
    _even([letters[letter] for letter in "ABCD"[:n_options]])
    if kind == "volume":
        ranks = Counter(
            sorted(float(o.split()[0].replace(",", "")) for o in _options(row).values()).index(
                float(row.labels[0].split()[0].replace(",", ""))
            )
            for row in made
        )
        _even([ranks[i] for i in range(4)])


def _even(counts: list[int]) -> None:
    expected = sum(counts) / len(counts)
    chi2 = sum((n - expected) ** 2 / expected for n in counts)
    assert chi2 < {2: 10.83, 4: 16.27}[len(counts)]  # the 0.999 quantiles


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task)
def test_ids_outlive_other_volumes_and_change_with_the_fingerprint(task):
    one = rows(task, abdomen())
    (view,) = abdomen().media.values()
    both = rows(task, scan(view, replace(view, key="ct-other")))
    assert {row.example_id for row in one} < {row.example_id for row in both}
    other = list(task.examples(abdomen(), "another print", None))
    assert {row.example_id for row in one}.isdisjoint(row.example_id for row in other)


def test_descriptions_add_the_side_that_a_label_states():
    known = regions_of(abdomen())
    left, right = described(known["left kidney"]), described(known["right kidney"])
    assert all(text.endswith("on the patient's left") for text in left)
    assert [a.removesuffix("left") for a in left] == [b.removesuffix("right") for b in right]
    assert all(a != b for a, b in pairwise(left))
