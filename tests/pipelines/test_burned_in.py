"""Names in pixels are covered or refused, markers and the rest of the picture stay, and papers are left alone."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from medloom.connectors import ocr
from medloom.connectors.images import decode_picture, encode_png
from medloom.connectors.ocr import TextBox, text_boxes
from medloom.pipelines.stages import burned_in
from medloom.pipelines.stages.burned_in import BurnedInText, writing
from medloom.schemas.errors import ConfigError, Refused
from medloom.schemas.keys import fingerprint
from medloom.schemas.medium import Medium, Picture
from medloom.schemas.origin import Origin
from medloom.schemas.volume import Volume

pytest.importorskip("rapidocr", reason="needs the extra medloom[deid]")

ORIGIN = Origin("s", "u", "", "", "declared", "private", "", "d")
NAME = "DOE^JANE 1957"


def film(*words: tuple[int, int, str], height: int = 200, width: int = 260) -> np.ndarray:
    """A synthetic radiograph: a soft bright ellipse on black with words at (y, x), (Y, X, 1)."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    shade = np.clip(1.2 - (x / 0.7) ** 2 - (y / 0.9) ** 2, 0, 1) * 180
    image = Image.fromarray((shade + np.random.default_rng(3).integers(0, 12, shade.shape)).astype(np.uint8))
    for top, left, word in words:
        ImageDraw.Draw(image).text((left, top), word, font=ImageFont.load_default(18), fill=255)
    return np.asarray(image)[:, :, np.newaxis]


def medium(content: Picture | Volume | np.ndarray, **changed: object) -> Medium:
    content = encode_png(content) if isinstance(content, np.ndarray) else content
    return replace(Medium("k", "u", "g", ORIGIN, content, modality="DX"), **changed)


def only(stage: BurnedInText, given: Medium) -> Medium:
    (made,) = stage(given)
    return made


def stack(plane_YX: np.ndarray, n: int = 5) -> Volume:
    return Volume(np.stack([plane_YX.astype(np.int16) * 4 - 1000] * n), np.eye(4), units="HU")


def test_a_name_is_covered_and_nothing_far_from_it_changes():
    before = film((5, 6, NAME), (90, 100, "Peter Smith"))
    made = only(BurnedInText(), medium(before))
    after = decode_picture(made.content)
    assert [box.text for box in text_boxes(after) if len(box.text) > 1] == []
    assert made.transforms == ("mask-text(2)",)
    assert made.measured == {"text_boxes": 2.0}
    assert (made.content.format, made.content.reencoded, made.layout) == ("png", True, "png")
    ink = (before.astype(int) - film())[:40] > 40
    assert ink.sum() > 300
    assert after[:40][ink].max() < 60  # not a stroke of it reaches out of what was covered
    changed = np.argwhere((before != after).any(axis=2))
    assert changed[:, 0].max() < 90 + 40
    assert (before != after).mean() < 0.2
    assert abs(int(np.median(after[92:106, 110:180])) - int(np.median(before[118:124, 110:180]))) < 25  # its ground


def test_markers_stay_and_a_picture_without_text_keeps_its_bytes():
    given = medium(film((8, 8, "L"), (8, 150, "PORTABLE"), (170, 8, "AP ERECT")))
    made = only(BurnedInText(), given)
    assert made.content is given.content
    assert (made.transforms, made.measured) == ((), {"text_boxes": 0.0})


def test_markers_stay_beside_a_name_that_goes():
    made = only(BurnedInText(), medium(film((5, 6, NAME), (170, 150, "PORTABLE"))))
    assert [box.text for box in text_boxes(decode_picture(made.content)) if len(box.text) > 1] == ["PORTABLE"]


def test_a_picture_with_text_is_quarantined_on_request_and_its_words_are_not_told():
    with pytest.raises(Refused) as fault:
        only(BurnedInText("quarantine"), medium(film((5, 6, NAME))))
    assert fault.value.reason == "pixels.text"
    assert "DOE" not in str(fault.value)
    made = only(BurnedInText("quarantine"), medium(film((8, 8, "L"))))
    assert made.measured == {"text_boxes": 0.0}


def test_a_picture_that_is_said_to_name_somebody_is_kept_only_where_text_was_covered():
    assert only(BurnedInText(), medium(film((5, 6, NAME)), stated=("burned_in",))).measured["text_boxes"] >= 1
    for words in ((), ((8, 8, "L"),)):
        with pytest.raises(Refused, match=r"pixels\.stated_text"):
            only(BurnedInText(), medium(film(*words), stated=("burned_in",)))


def test_a_page_of_text_is_refused():
    lines = [(top, 2, "Dose report of Jane Doe, 57 y") for top in range(2, 180, 22)]
    with pytest.raises(Refused, match=r"pixels\.text.*a page"):
        only(BurnedInText(), medium(film(*lines)))


def test_text_that_covering_does_not_hide_is_refused(monkeypatch):
    box = TextBox((5, 5, 25, 90), 0.99, "Jane Doe")
    monkeypatch.setattr(burned_in, "text_boxes", lambda _: [box])
    with pytest.raises(Refused, match=r"pixels\.text.*still found"):
        only(BurnedInText(), medium(film()))


def test_the_colour_and_the_alpha_of_a_name_are_covered():
    words = film((5, 6, NAME))
    rgba = np.concatenate([words, words, np.full_like(words, 9), np.full_like(words, 255)], axis=2)
    rgba[:60, :200, 3] = 0  # the name is there, though nobody sees it
    after = decode_picture(only(BurnedInText(), medium(rgba, modality="US")).content)
    assert after.shape == rgba.shape
    assert [box.text for box in text_boxes(after[:, :, :3]) if len(box.text) > 1] == []


def test_figures_and_switched_off_stages_are_not_looked_at(monkeypatch):
    monkeypatch.setattr(burned_in, "text_boxes", lambda _: pytest.fail("a figure was read"))
    given = medium(film((5, 6, NAME)), modality="figure")
    assert only(BurnedInText(), given).content is given.content
    made = only(BurnedInText("off"), medium(film((5, 6, NAME)), stated=("burned_in",)))
    assert made.measured == {"text_boxes": -1.0}


def test_ordinary_volumes_are_not_looked_at_and_stated_ones_are_refused(monkeypatch):
    named, plain = stack(film((5, 6, NAME))[:, :, 0]), stack(film()[:, :, 0])
    with pytest.raises(Refused, match=r"pixels\.text"):
        only(BurnedInText(), medium(named, modality="CT", stated=("derived",)))
    assert only(BurnedInText(), medium(plain, modality="CT", stated=("derived",))).measured == {"text_boxes": 0.0}
    with pytest.raises(Refused, match=r"pixels\.stated_text"):
        only(BurnedInText(), medium(plain, modality="CT", stated=("burned_in",)))
    monkeypatch.setattr(burned_in, "text_boxes", lambda _: pytest.fail("an ordinary volume was read"))
    assert only(BurnedInText(), medium(named, modality="CT")).measured == {"text_boxes": -1.0}


def test_a_name_in_one_slice_of_a_derived_volume_is_seen_in_what_is_brightest():
    slices = [film((5, 6, NAME))[:, :, 0] if k == 1 else film()[:, :, 0] for k in range(7)]
    named = Volume(np.stack(slices).astype(np.float32), np.eye(4))
    with pytest.raises(Refused, match=r"pixels\.text"):
        only(BurnedInText(), medium(named, modality="MR", stated=("derived",)))


def box(text: str, height: int = 20, confidence: float = 0.99) -> TextBox:
    return TextBox((10, 10, 10 + height, 10 + height * max(1, len(text)) // 2), confidence, text)


@pytest.mark.parametrize(
    ("found", "covered"),
    [
        ([], 0),
        ([box("L")], 0),
        ([box("r. Portable")], 0),
        ([box("R", confidence=0.5)], 0),  # one unsure letter is no writing
        ([box("AP", confidence=0.5)], 1),  # two unsure letters are
        ([box("AP Lee")], 1),
        ([box("O", 150), box("0", 90)], 0),  # outlines of a body
        ([box("O", 150), box("MRN 4")], 1),
        ([box("K"), box("MRN 4"), box("L")], 2),
        ([box("J"), box("O"), box("E")], 3),
        ([box("李"), box("小"), box("龙")], 3),
        ([box("O", 150), box("C", 20), box("Y", 60)], 0),
    ],
)
def test_writing_is_told_from_markers_and_from_outlines(found, covered):
    assert len(writing(found)) == covered


def test_the_reader_decides_the_fingerprint_and_a_missing_one_is_named_at_once(monkeypatch):
    with_reader = BurnedInText()
    assert "rapidocr" in with_reader.reader
    monkeypatch.setattr(burned_in, "engine", lambda: "another reader")
    assert fingerprint(BurnedInText()) != fingerprint(with_reader)

    def missing() -> str:
        raise ConfigError("pip install 'medloom[deid]'")

    monkeypatch.setattr(burned_in, "engine", missing)
    assert BurnedInText("off").reader == ""
    with pytest.raises(ConfigError, match="deid"):
        BurnedInText()
    with pytest.raises(ConfigError, match="mask, quarantine, off"):
        BurnedInText("hide")
    assert ocr.engine() == with_reader.reader
