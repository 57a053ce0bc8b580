"""New values for old ones, held against the calendar, the standard's forms and known examples."""

from datetime import date, datetime, timedelta

import pytest

from medloom.connectors import deid_values as values
from medloom.connectors.deid_known import Known, days_in
from medloom.connectors.deid_words import clean
from medloom.schemas.keys import Identity

IDENTITY = Identity(b"k" * 32)


def test_a_uid_becomes_another_that_is_valid_and_always_the_same():
    new = values.new_uid("1.2.3.4", IDENTITY)
    assert new.startswith("2.25.")
    assert 0 < int(new.removeprefix("2.25.")) < 2**128
    assert len(new) <= 64
    assert new == values.new_uid("1.2.3.4", Identity(b"k" * 32))
    assert new != values.new_uid("1.2.3.5", IDENTITY)
    assert new != values.new_uid("1.2.3.4", Identity(b"l" * 32))


@pytest.mark.parametrize(
    ("uid", "stays"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", True), ("1.2.840.10008.1.2.4.90", True), ("2.16.840.1.113883.6.96", True),
        ("1.2.840.10008.20150412.1", False), ("1.2.840.10008.4711.0815.123456", False),
        ("1.2.840.113619.2.55.3", False), ("1.2.840.10008.", False), ("1.2.840.10008.ZEBEDEE", False),
    ],
)  # fmt: skip
def test_only_uids_of_the_standard_stay(uid, stays):
    assert values.is_well_known(uid) == stays


def test_shifts_lie_within_a_year_and_differ_between_patients():
    days = {values.shift_days(f"P{number}", IDENTITY) for number in range(3000)}
    assert min(days) == -365
    assert max(days) == -1


@pytest.mark.parametrize("days", [-1, -59, -365])
@pytest.mark.parametrize("day", ["20160301", "20000229", "19991231", "2015.04.12"])
def test_a_date_moves_by_whole_days(day, days):
    plain = day.replace(".", "")
    expected = date(int(plain[:4]), int(plain[4:6]), int(plain[6:])) + timedelta(days=days)
    assert values.shifted("DA", day, days) == expected.strftime("%Y%m%d")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("20160301121314.123456+0100", "20160229121314.123456+0100"), ("20160301", "20160229"), ("201603", "201602"),
        ("2016", "2015"), ("2016030112", "2016022912"),
    ],
)  # fmt: skip
def test_a_date_and_time_keeps_its_precision_and_time(old, new):
    assert values.shifted("DT", old, -1) == new


@pytest.mark.parametrize(
    ("vr", "text"),
    [("DA", "yesterday"), ("DA", "20151301"), ("DA", "20150412-20150413"), ("DT", "Zebedee"), ("TM", "noon"),
     ("DA", "00010101")],
)  # fmt: skip
def test_what_is_no_date_is_not_kept(vr, text):
    with pytest.raises(ValueError):  # noqa: PT011  its message is nobody's
        values.shifted(vr, text, -2)


@pytest.mark.parametrize(
    ("old", "new"),
    [("089Y", "089Y"), ("090Y", "090Y"), ("103Y", "090Y"), ("006M", "006M"), ("999M", "999M"), ("014D", "014D")],
)
def test_ages_above_89_years_are_capped(old, new):
    assert values.capped_age(old) == new


@pytest.mark.parametrize(
    "text",
    ["seen 20150412", "on 2015-04-12.", "12.04.2015", "4/12/2015", "12-Apr-2015", "April 12th, 2015", "12 apr 15",
     "2015-04-12T10:00", "20150412101010", "04/12/15"],
)  # fmt: skip
def test_a_day_is_found_in_every_notation(text):
    assert "20150412" in set(days_in(text.casefold()))
    assert Known(days=frozenset({"20150412"})).kind_in(text) == "date"
    assert datetime.strptime("20150412", "%Y%m%d")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("scan of ZEBEDEE, left", "name"), ("Zebedees", ""), ("id acc-90210.", "identifier"), ("ACC-902101", ""),
        ("uid 1.3.6.1.4.1.5.9 said", "UID"), ("1.3.6.1.4.1.5.91", ""), ("4711.5", ""), ("P 4711", "identifier"),
    ],
)  # fmt: skip
def test_an_identifier_is_found_as_a_whole_word(text, kind):
    known = Known(frozenset({"zebedee"}), frozenset({"acc-90210", "4711"}), uids=frozenset({"1.3.6.1.4.1.5.9"}))
    assert known.kind_in(text) == kind


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("CT Chest w contrast, Zebedee 5mm", "CT Chest w contrast 5mm"), ("Dr. Foxtrot / ward 7", ""),
        ("T2_FLAIR_ax", "T2_FLAIR_ax"), ("head 12 04 15", "head 12"), ("MRN 00123456", ""),
        ("Kopf ohne Müller", ""), ("of the", ""), ("b1000 DWI", "b1000 DWI"),
    ],
)  # fmt: skip
def test_a_description_keeps_known_words_only(text, left):
    assert clean(text, names_someone=lambda word: False) == left


def test_a_known_word_that_is_the_patients_name_goes():
    assert clean("Head Chest", names_someone=lambda word: word == "head") == "Chest"
