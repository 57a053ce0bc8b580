import pytest
from hypothesis import given
from hypothesis import strategies as st

from medloom.quality.grounding import leaks, negated, refers_to_text, token_f1, tokens, ungrounded, well_formed


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [
        ("CT", "ct", 1.0),
        ("a 4.2 cm mass", "4.2cm mass", 1.0),
        ("right upper lobe", "upper lobe", 0.8),  # 2·2 / (3+2), by hand
        ("left kidney", "right kidney", 0.5),
        ("MRI", "CT", 0.0),
        ("", "CT", 0.0),
        ("the", "a", 0.0),
        ("mass mass", "mass", 2 / 3),
    ],
)
def test_token_f1_is_what_a_reader_counts(answer, reference, f1):
    assert token_f1(answer, reference) == pytest.approx(f1)


@given(st.text(max_size=40), st.text(max_size=40))
def test_token_f1_is_symmetric_bounded_and_one_for_equal_tokens(a, b):
    assert token_f1(a, b) == token_f1(b, a)
    assert 0 <= token_f1(a, b) <= 1
    assert (token_f1(a, a) == 1) == bool(tokens(a))


@pytest.mark.parametrize(
    ("question", "answers", "leaking"),
    [
        ("Does this CT show the chest?", ("CT",), True),
        ("Is the computed tomography axial?", ("CT", "computed tomography"), True),
        ("What is in the right upper lobe?", ("right upper lobe",), True),
        ("What is in the Right, Upper lobe?", ("right upper lobe",), True),
        ("Which lobe is affected?", ("right upper lobe",), False),
        ("Which section is shown?", ("CT",), False),  # "ct" within "section" is no leak
        ("How large is the mass?", ("4.2 cm",), False),
        ("Is it 4.2cm large?", ("4.2 cm",), True),
    ],
)
def test_a_leak_is_the_answer_as_whole_tokens(question, answers, leaking):
    assert leaks(question, answers) is leaking


@given(st.lists(st.sampled_from(["mass", "left", "lobe", "of", "x"]), min_size=1, max_size=4), st.text(max_size=9))
def test_a_question_that_holds_the_answer_always_leaks(words, around):
    assert leaks(f"{around} {' '.join(words)} {around}?", (" ".join(words),))


@pytest.mark.parametrize(
    ("question", "good"),
    [
        ("Which modality is shown?", True),
        ("Which modality is shown", False),
        ("Modality?", False),
        ("Which one? And where is it?", False),
        ("Which modality\nis shown here?", False),
        (" ".join(["word"] * 41) + "?", False),
        (" ".join(["word"] * 40) + "?", True),
    ],
)
def test_a_question_is_one_line_that_asks_once(question, good):
    assert well_formed(question) is good


@pytest.mark.parametrize(
    ("question", "refers"),
    [
        ("What does the caption say about the lesion?", True),
        ("Which modality is mentioned in the article?", True),
        ("According to the text, where is the mass?", True),
        ("What is shown in Figure 2?", True),
        ("What is shown in Fig. 3A?", True),
        ("What does the sentence describe?", True),
        ("What is shown in this figure?", False),
        ("Which contextual finding does the arrow mark?", False),
        ("Which texture does the liver have?", False),
        ("Where is the papery lesion?", False),
    ],
)
def test_a_question_that_speaks_of_its_source_is_seen(question, refers):
    assert refers_to_text(question) is refers


@pytest.mark.parametrize(
    ("question", "made_up"),
    [
        ("Where is the 4.2 cm mass?", ()),
        ("Where is the 5 cm mass?", ("5",)),
        ("What lies in the left lung?", ("left",)),
        ("Is it on the left or right?", ("left",)),
        ("Where is the mass?", ()),
        ("Where are the masses located?", ("masses",)),
        ("How large is the cyst in the liver?", ("cyst", "liver")),
        ("Which imaging technique was used to examine the knee?", ("knee",)),
        ("What does the arrow mark in both lungs?", ("both",)),
    ],
)
def test_what_the_evidence_does_not_name_is_made_up(question, made_up):
    assert ungrounded(question, "A 4.2 cm mass in the right lung.") == made_up


@pytest.mark.parametrize(
    ("sentence", "phrase", "is_negated"),
    [
        ("There is no pleural effusion.", "pleural effusion", True),
        ("No mass, effusion or pneumothorax.", "pneumothorax", True),
        ("Chest CT without evidence of a nodule.", "nodule", True),
        ("Chest CT without evidence of a nodule.", "CT", False),
        ("The lesion was not seen on T2.", "lesion", True),
        ("A mass is absent.", "mass", True),
        ("Fracture was ruled out.", "Fracture", True),
        ("The patient denied chest pain.", "chest pain", True),
        ("No mass but a large cyst (arrow).", "cyst", False),
        ("No mass but a large cyst (arrow).", "mass", True),
        ("No fever. Axial CT shows a mass.", "mass", False),
        ("Axial CT shows a 4.2 cm mass in the right lobe.", "mass", False),
        ("A fracture cannot be excluded.", "fracture", False),
        ("No change in the right renal mass.", "right renal mass", False),
        ("Gram-negative rods (arrow) in the lung.", "rods", False),
        ("Axial CT without contrast with a mass.", "mass", False),
        ("Radiograph, however, showed a nodule in note form.", "nodule", False),
        ("Absence of the left kidney.", "left kidney", True),
        ("Nodule of the left lung.", "left lung", False),
    ],
)
def test_negation_holds_within_its_clause(sentence, phrase, is_negated):
    start = sentence.index(phrase)
    assert negated(sentence, start, start + len(phrase)) is is_negated


@given(st.text(max_size=60), st.integers(0, 60), st.integers(0, 60))
def test_negation_takes_any_text_and_span(text, start, length):
    start = min(start, len(text))
    assert negated(text, start, min(len(text), start + length)) in (True, False)
