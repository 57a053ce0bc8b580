"""Case reports: sections and sentences sorted into parts of a story, by titles and words that publishers use."""

from typing import Any

import pytest

from medloom.connectors.case_reports import (
    ROLES,
    case_parts,
    mark_sections,
    patient_number,
    role_of_sentence,
    role_of_title,
)


def section(*path: str, sec_id: str = "") -> dict[str, Any]:
    return {"sec_id": sec_id or "/".join(path), "path": list(path), "title": path[-1], "role": "", "patient": 0}


def paragraph(sec_id: str, text: str, where: str = "body") -> dict[str, Any]:
    return {"par_id": f"p-{sec_id}", "sec_id": sec_id, "where": where, "text": text}


@pytest.mark.parametrize(
    ("title", "role"),
    [
        ("Case presentation", "case"), ("2. Case Report", "case"), ("CASE DESCRIPTION", "case"),
        ("Relato de caso", "case"),
        ("Presentación del caso", "case"), ("Case presentation and management", "case"), ("Fallbericht", "case"),
        ("Patient Information", "history"), ("Medical history", "history"), ("Anamnesis", "history"),
        ("Chief complaints:", "history"), ("História clínica", "history"),
        ("Clinical findings", "findings"), ("Diagnostic assessment", "findings"), ("Physical examination", "findings"),
        ("Laboratory examinations", "findings"), ("Investigations", "findings"),
        ("Imaging findings and work-up", "findings"),
        ("Final diagnosis", "diagnosis"), ("DIFFERENTIAL DIAGNOSIS", "diagnosis"), ("Diagnosis", "diagnosis"),
        ("Therapeutic intervention", "treatment"), ("Treatment", "treatment"), ("Surgical technique", "treatment"),
        ("Follow-up and outcomes", "follow-up"), ("Outcome and follow-up", "follow-up"), ("Evolución", "follow-up"),
        ("Discussion", ""), ("Introduction", ""), ("Methods", ""), ("Statistical treatment of data", ""),
        ("Case-control study", ""), ("Patients and methods", ""), ("Case and control", ""), ("Treatments compared", ""),
    ],
)  # fmt: skip
def test_a_title_says_which_part_it_is(title: str, role: str):
    assert role_of_title(title) == role


@pytest.mark.parametrize(
    ("title", "number"),
    [
        ("Case 1", 1), ("Case 2: a man with a rash", 2), ("Patient No. 3", 3), ("3.1. Case II", 2), ("Second case", 2),
        ("Caso 2", 2), ("CASE REPORT 4", 4), ("Cases 1 and 2", 0), ("Case 1–3", 0), ("Case presentation", 0),
        ("The first patient", 1), ("Cas 1", 1), ("Fall 2", 2),
    ],
)  # fmt: skip
def test_a_title_says_which_patient_it_is_about(title: str, number: int):
    assert patient_number(title) == number


@pytest.mark.parametrize(
    ("sentence", "role"),
    [
        ("A 54-year-old man presented with chest pain.", "history"),
        ("She had a history of hypertension and denied smoking.", "history"),
        ("On examination, the abdomen was tender.", "findings"),
        ("Contrast-enhanced CT revealed a mass of 4 cm in the left kidney.", "findings"),
        ("Serum creatinine was 2.1 mg/dL.", "findings"),
        ("He underwent MRI of the spine.", "findings"),
        ("A diagnosis of sarcoidosis was made.", "diagnosis"),
        ("The findings were consistent with tuberculosis, and the patient was diagnosed as having it.", "diagnosis"),
        ("She underwent laparoscopic cholecystectomy.", "treatment"),
        ("He received six cycles of chemotherapy.", "treatment"),
        ("The patient was discharged on day 5.", "follow-up"),
        ("At follow-up after 12 months there was no recurrence.", "follow-up"),
        ("This was discussed with the family.", ""),
    ],
)
def test_a_sentence_says_which_part_it_is(sentence: str, role: str):
    assert role_of_sentence(sentence) == role


def test_sections_inherit_the_patient_and_part_above_them():
    sections = [
        section("Introduction"), section("Case reports"), section("Case reports", "Case 1"),
        section("Case reports", "Case 1", "History"), section("Case reports", "Case 1", "Imaging", "CT of the chest"),
        section("Case reports", "Case 2"), section("Case reports", "Case 2", "Follow-up"), section("Discussion"),
    ]  # fmt: skip
    mark_sections(sections)
    assert [(s["role"], s["patient"]) for s in sections] == [
        ("", 0), ("case", 1), ("case", 1), ("history", 1), ("case", 1), ("case", 2), ("follow-up", 2), ("", 0),
    ]  # fmt: skip


def test_patients_may_be_told_one_after_another_without_a_section_around_them():
    sections = [section("Case 1"), section("Case 1", "Diagnosis"), section("Case 2"), section("Conclusion")]
    mark_sections(sections)
    assert [(s["role"], s["patient"]) for s in sections] == [("case", 1), ("diagnosis", 1), ("case", 2), ("", 0)]


def test_parts_follow_the_story_and_hold_each_sentence_once():
    text = (
        "A 60-year-old woman presented with cough. It had lasted for weeks. CT showed a nodule. The biopsy was read "
        "twice. A diagnosis of adenocarcinoma was made. She underwent lobectomy. She was discharged after a week."
    )
    sections = [section("Case presentation"), section("Discussion")]
    mark_sections(sections)
    parts = case_parts(sections, [paragraph("Case presentation", text), paragraph("Discussion", text)], lang="en")
    assert [part.role for part in parts] == list(ROLES)
    assert "".join(text[part.start : part.end] for part in parts) == text
    assert text[parts[0].start : parts[0].end].startswith("A 60-year-old woman")
    assert (
        "weeks" in text[parts[0].start : parts[0].end]
    )  # a sentence that says nothing goes on with the part before it


def test_other_languages_have_the_parts_of_their_titles_alone():
    sections = [section("Relato de caso"), section("Relato de caso", "Exames", sec_id="e")]
    mark_sections(sections)
    told = [paragraph("Relato de caso", "Paciente de 60 anos."), paragraph("e", "A tomografia foi normal.")]
    assert [part.role for part in case_parts(sections, told, lang="pt")] == ["findings"]
    assert case_parts(sections, [paragraph("e", "Resumo.", where="abstract")], lang="pt") == []
