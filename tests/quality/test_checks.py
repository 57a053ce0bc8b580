"""Checks on rows made by hand and on every row of a build: the edges decide, and what is not said is unsure."""

import dataclasses
import math

import pytest

from medloom.quality.checks import (
    SOFT_CHECKS,
    AffineKnown,
    AspectPlausible,
    CtRangePlausible,
    EvidenceCoversItsText,
    HasText,
    MinSide,
    MinSlices,
    ModalityKnown,
    NoFace,
    NotConstant,
    RefersToMedia,
    SpacingPlausible,
    TermsKnown,
    TurnsAlternate,
    run_checks,
)
from medloom.schemas.verdict import Verdict


def picture(**changed):
    row = {
        "key": "a-f1", "digest": "d1", "layout": "jpg", "field": "jpg", "shape": [64, 80, 3], "spacing_mm": [],
        "modality": "figure", "terms_id": "cc-by", "measured": [{"name": "std", "value": 12.0}],
    }  # fmt: skip
    return row | changed


def volume(**changed):
    row = picture(layout="volume", field="ct.b2nd", shape=[20, 512, 512], spacing_mm=[2.5, 0.7, 0.7], modality="CT")
    return (
        row
        | {
            "measured": [
                {"name": "std", "value": 300.0},
                {"name": "min", "value": -1024.0},
                {"name": "max", "value": 3071.0},
            ]
        }
        | changed
    )


def example(answer="The right lobe", **changed):
    said = [{"text": answer, "media": "", "box": []}]
    turns = [
        {"role": "user", "parts": [{"text": "", "media": "a-f1", "box": []}]},
        {"role": "assistant", "parts": said},
    ]
    row = {"example_id": "vqa-1", "turns": turns, "regions": [], "labels": [], "evidence": [], "media": ["a-f1"]}
    return row | {"measured": []} | changed


@pytest.mark.parametrize(
    ("check", "row", "outcome", "reason", "value"),
    [
        (MinSide(pixels=64), picture(), "pass", "", 64),
        (MinSide(pixels=65), picture(), "fail", "size.side", 64),
        (MinSide(pixels=64), volume(shape=[3, 64, 100]), "pass", "", 64),
        (MinSide(pixels=64), picture(shape=[]), "unsure", "measured.missing", math.nan),
        (MinSlices(slices=20), volume(), "pass", "", 20),
        (MinSlices(slices=21), volume(), "fail", "size.slices", 20),
        (AspectPlausible(ratio=1.25), picture(), "pass", "", 1.25),
        (AspectPlausible(ratio=1.2), picture(), "fail", "size.aspect", 1.25),
        (SpacingPlausible(low_mm=0.7, high_mm=2.5), volume(), "pass", "", 2.5),
        (SpacingPlausible(low_mm=0.71, high_mm=20), volume(), "fail", "spacing.implausible", 0.7),
        (SpacingPlausible(low_mm=0.05, high_mm=2.4), volume(), "fail", "spacing.implausible", 2.5),
        (SpacingPlausible(low_mm=0.05, high_mm=20), volume(spacing_mm=[]), "unsure", "measured.missing", math.nan),
        (NotConstant(), picture(), "pass", "", 12),
        (NotConstant(), picture(measured=[{"name": "std", "value": 0.0}]), "fail", "values.constant", 0),
        (NotConstant(), picture(measured=[]), "unsure", "measured.missing", math.nan),
        (NotConstant(), picture(measured=None), "unsure", "measured.missing", math.nan),
        (CtRangePlausible(), volume(), "pass", "", -1024),
        (
            CtRangePlausible(),
            volume(measured=[{"name": "min", "value": 0.0}, {"name": "max", "value": 4095.0}]),
            "fail",
            "ct.no_air",
            0,
        ),
        (
            CtRangePlausible(),
            volume(measured=[{"name": "min", "value": -32768.0}, {"name": "max", "value": 3071.0}]),
            "fail",
            "ct.range",
            -32768,
        ),
        (
            CtRangePlausible(),
            volume(measured=[{"name": "min", "value": -1024.0}, {"name": "max", "value": 65535.0}]),
            "fail",
            "ct.range",
            65535,
        ),
        (
            CtRangePlausible(),
            volume(measured=[{"name": "min", "value": -1024.0}]),
            "unsure",
            "measured.missing",
            math.nan,
        ),
        (AffineKnown(), volume(measured=[{"name": "affine_known", "value": 1.0}]), "pass", "", 1),
        (AffineKnown(), volume(measured=[{"name": "affine_known", "value": 0.0}]), "fail", "affine.assumed", 0),
        (ModalityKnown(), picture(), "pass", "", math.nan),
        (ModalityKnown(), picture(modality="OT"), "fail", "modality.unknown", math.nan),
        (TermsKnown(), picture(), "pass", "", math.nan),
        (TermsKnown(), picture(terms_id="unknown"), "fail", "terms.unknown", math.nan),
        (TermsKnown(), picture(terms_id="invented"), "fail", "terms.unknown", math.nan),
        (HasText(min_characters=14), example(), "pass", "", 14),
        (HasText(min_characters=15), example(), "fail", "text.short", 14),
        (HasText(min_characters=1), example("  "), "fail", "text.short", 0),
        (TurnsAlternate(), example(), "pass", "", 2),
        (TurnsAlternate(), example(turns=example()["turns"][:1]), "fail", "turns.order", 1),
        (TurnsAlternate(), example(turns=example()["turns"][::-1]), "fail", "turns.order", 2),
        (TurnsAlternate(), example(turns=[]), "fail", "turns.order", 0),
        (TurnsAlternate(), example(turns=[{"role": "document", "parts": []}]), "pass", "", 1),
        (RefersToMedia(), example(), "pass", "", 1),
        (RefersToMedia(), example(media=[]), "fail", "media.none", 0),
    ],
)
def test_each_check_decides_at_its_edge(check, row, outcome, reason, value):
    verdict = check.check(row)
    assert (verdict.outcome, verdict.reason) == (outcome, reason)
    assert verdict.value == value or (math.isnan(verdict.value) and math.isnan(value))


@pytest.mark.parametrize(("end", "text", "outcome"), [(9, "lobe", "pass"), (10, "lobe", "fail"), (5, "", "fail")])
def test_evidence_must_span_its_words(end, text, outcome):
    row = example(evidence=[{"where": "caption:a-f1", "start": 5, "end": end, "text": text}])
    assert EvidenceCoversItsText().check(row).outcome == outcome


def test_evidence_from_a_header_has_no_offsets_to_judge():
    row = example(evidence=[{"where": "header:a", "start": 0, "end": 0, "text": "CT"}])
    assert not EvidenceCoversItsText().applies(row)


def test_a_verdict_names_its_subject_rule_thresholds_and_digest():
    assert MinSide(pixels=65).check(picture()) == Verdict(
        subject="a-f1", digest="d1", scope="medium", check="MinSide(pixels=65)", version="2", by="rule",
        outcome="fail", reason="size.side", value=64.0,
    )  # fmt: skip
    first, other = (HasText(min_characters=1).check(row) for row in (example(), example("Another")))
    assert (first.subject, first.scope) == ("vqa-1", "example")
    assert first.digest != other.digest


def test_json_thumbnail_and_mask_rows_are_not_judged():
    rows = [volume(field=field) for field in ("json", "thumb.jpg", "seg.b2nd")]
    assert list(run_checks(rows, SOFT_CHECKS)) == []


def test_ct_and_volume_rules_leave_other_rows_alone():
    names = {v.check.partition("(")[0] for v in run_checks([picture()], SOFT_CHECKS)}
    assert names == {"MinSide", "AspectPlausible", "NotConstant", "ModalityKnown", "TermsKnown"}
    assert not CtRangePlausible().applies(volume(modality="MR"))


def test_a_possible_face_is_only_warned_of_and_one_that_nobody_looked_for_is_unsure():
    outcomes = {face: NoFace().judge(volume(face=face)).outcome for face in ("possible", "removed", "none", "", None)}
    assert outcomes == {"possible": "fail", "removed": "pass", "none": "pass", "": "unsure", None: "unsure"}
    assert NoFace().judge(volume()).outcome == "unsure"  # a row of an older format
    assert NoFace.severity == "warn"
    assert not NoFace().applies(picture())
    assert not NoFace().applies(volume(modality="NM"))


def test_checks_are_frozen_and_name_a_version_and_a_severity():
    assert len({check.name for check in SOFT_CHECKS}) == len(SOFT_CHECKS)
    for check in SOFT_CHECKS:
        assert dataclasses.is_dataclass(check)
        assert type(check).__dataclass_params__.frozen
        assert check.version
        assert check.severity in ("withhold", "warn")
        assert check.scope in ("medium", "example")


def test_every_row_of_a_build_gets_its_verdicts(build):
    media = list(run_checks(build.index().to_pylist(), SOFT_CHECKS))
    examples = list(run_checks(build.examples().to_pylist(), SOFT_CHECKS))
    assert {v.subject for v in media} == set(build.index()["key"].to_pylist())
    assert {v.subject for v in examples} == set(build.examples()["example_id"].to_pylist())
    assert {v.check for v in media + examples if v.outcome == "fail"} == set()


def test_the_slices_of_a_sagittal_volume_are_its_two_longest_sides():
    assert MinSide(pixels=64).judge(volume(shape=[256, 256, 8])).outcome == "pass"
    assert MinSide(pixels=64).judge(volume(shape=[256, 60, 8])).outcome == "fail"
