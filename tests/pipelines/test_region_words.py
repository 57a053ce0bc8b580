import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pipelines.masks import LPS, blocks

from medloom.connectors import anatomy
from medloom.pipelines.tasks import region_words as words
from medloom.pipelines.tasks.anatomy_words import DESCRIPTIONS
from medloom.pipelines.tasks.region_words import PAIRED, Grid
from medloom.schemas.volume import Label, Volume, reorient

BOX = (2, 10, 4, 6, 20, 12)


def rotated(degrees: float, axis: int = 2) -> np.ndarray:
    angle = np.deg2rad(degrees)
    a, b = [i for i in range(3) if i != axis]
    turn = np.eye(4)
    turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return turn @ LPS


def test_a_box_in_mm_goes_from_edge_to_edge_of_its_voxels():
    affine = LPS.copy()
    affine[:3, 3] = -50, -40, 1000
    grid = Grid((16, 40, 40), affine)
    # x: voxels 4 … 11 have centres -46.8 … -41.2 mm, and reach 0.4 mm further on both ends
    assert words.box_mm(BOX, grid) == pytest.approx((-47.2, -32.4, 1003.75, -40.8, -24.4, 1013.75))
    assert words.centre_mm(BOX, grid) == pytest.approx((-44.0, -28.4, 1008.75))
    assert words.extents_mm(BOX, grid) == pytest.approx((10.0, 8.0, 6.4))
    assert words.longest_mm(BOX, grid) == pytest.approx(10.0)


def test_a_turned_box_keeps_its_lengths_and_its_hull_holds_every_voxel():
    grid = Grid((16, 40, 40), rotated(30))
    assert words.extents_mm(BOX, grid) == pytest.approx((10.0, 8.0, 6.4))
    z, y, x = np.mgrid[2:6, 10:20, 4:12].reshape(3, -1)
    centres = (grid.affine @ np.stack([x, y, z, np.ones_like(x)]))[:3]
    low, high = np.split(np.array(words.box_mm(BOX, grid)), 2)
    assert (centres.min(axis=1) > low).all()
    assert (centres.max(axis=1) < high).all()
    assert high[0] - low[0] == pytest.approx(6.4 * np.cos(np.pi / 6) + 8 * np.sin(np.pi / 6))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from(["RAS", "LPI", "SLA", "PRS", "AIL"]))
def test_words_of_place_do_not_depend_on_how_the_array_is_stored(seed, orientation):
    rng = np.random.default_rng(seed)
    boxes = []
    for _ in range(2):
        low = rng.integers((0, 0, 0), (12, 30, 30))
        boxes.append((*low.tolist(), *(low + rng.integers(1, 5, 3)).tolist()))
    stored = Volume(blocks(boxes[0]), LPS)
    other = Volume(blocks(boxes[1]), LPS)

    def said(*volumes: Volume) -> tuple:
        grid = Grid(volumes[0].shape, volumes[0].affine)
        a, b = (
            (*(int(n.min()) for n in np.nonzero(v.array)), *(int(n.max()) + 1 for n in np.nonzero(v.array)))
            for v in volumes
        )
        return (
            words.relations(a, b, grid), words.field_side(a, grid), words.part_of_field(a, grid),
            words.touches_edge(a, grid), np.round(words.box_mm(a, grid), 6).tolist(), round(words.overlap(a, b), 9),
        )  # fmt: skip

    assert said(stored, other) == said(reorient(stored, orientation), reorient(other, orientation))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_a_relation_holds_for_every_voxel_and_both_ways(seed):
    rng = np.random.default_rng(seed)
    grid = Grid((12, 12, 12), LPS * np.array([*rng.choice([-1, 1], 3), 1]))
    a, b = ((*low.tolist(), *(low + rng.integers(1, 6, 3)).tolist()) for low in rng.integers(0, 6, (2, 3)))

    def centres(box: tuple) -> np.ndarray:
        z, y, x = np.mgrid[box[0] : box[3], box[1] : box[4], box[2] : box[5]].reshape(3, -1)
        return (grid.affine @ np.stack([x, y, z, np.ones_like(x)]))[:3]

    mine, theirs = centres(a), centres(b)
    expected = {
        "to the patient's left of": mine[0].min() > theirs[0].max(),
        "to the patient's right of": mine[0].max() < theirs[0].min(),
        "posterior to": mine[1].min() > theirs[1].max(), "anterior to": mine[1].max() < theirs[1].min(),
        "superior to": mine[2].min() > theirs[2].max(), "inferior to": mine[2].max() < theirs[2].min(),
    }  # fmt: skip
    assert set(words.relations(a, b, grid)) == {name for name, holds in expected.items() if holds}
    opposite = {"left": "right", "right": "left", "posterior": "anterior", "anterior": "posterior",
                "superior": "inferior", "inferior": "superior"}  # fmt: skip
    back = {" ".join(opposite.get(w, w) for w in said.split()) for said in words.relations(a, b, grid)}
    assert set(words.relations(b, a, grid)) == back


def test_the_side_of_the_field_is_said_only_of_what_lies_in_one_half():
    grid = Grid((8, 40, 40), LPS)
    assert words.field_side((0, 0, 20, 1, 1, 40), grid) == "left"
    assert words.field_side((0, 0, 0, 1, 1, 20), grid) == "right"
    assert words.field_side((0, 0, 19, 1, 1, 40), grid) == ""
    assert words.part_of_field((6, 2, 30, 8, 6, 38), grid) == "left anterior superior"
    assert words.part_of_field((3, 18, 18, 5, 22, 22), grid) == "central"
    assert words.part_of_field((3, 2, 2, 5, 6, 38), grid) == "anterior"


def test_the_edge_is_touched_at_either_end_of_any_axis():
    grid = Grid((8, 40, 40), LPS)
    assert not words.touches_edge((1, 1, 1, 7, 39, 39), grid)
    for at, value in enumerate((0, 0, 0, 8, 40, 40)):
        box = [1, 1, 1, 7, 39, 39]
        box[at] = value
        assert words.touches_edge(box, grid)


def test_overlap_is_intersection_over_union():
    cube = (0, 0, 0, 4, 4, 4)
    assert words.overlap(cube, cube) == 1
    assert words.overlap(cube, (0, 0, 4, 4, 4, 8)) == 0
    assert words.overlap(cube, (1, 1, 1, 5, 5, 5)) == pytest.approx(27 / (128 - 27))
    assert words.overlap((0, 0, 0, 1, 4, 4), (0, 0, 2, 1, 4, 6)) == pytest.approx(8 / 24)  # one voxel thick


@pytest.mark.parametrize(
    ("value", "said"),
    [(1523.4, "1,520"), (999.6, "1,000"), (12.34, "12.3"), (4.0, "4"), (0.04219, "0.0422"), (100.4, "100"),
     (123456, "123,000")],
)  # fmt: skip
def test_three_digits_are_said(value, said):
    assert words.three_digits(value) == said


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 600), st.integers(0, 10**6), st.integers(0, 10**6)), min_size=3, max_size=3))
def test_a_box_in_thousandths_comes_back_within_half_of_one(axes):
    shape = tuple(n for n, _, _ in axes)
    low = tuple(a % n for n, a, _ in axes)
    high = tuple(lo + 1 + b % (n - lo) for lo, (n, _, b) in zip(low, axes, strict=True))
    said = [int(text) for text in words.box_words((*low, *high), shape).strip("[]").split(", ")]
    for got, exact, n in zip(said, (*low, *high), (*shape, *shape), strict=True):
        assert abs(got * n / 1000 - exact) <= n / 2000 + 1e-9
        assert 0 <= got <= 1000


def test_a_class_is_named_with_its_side_and_article():
    assert words.the(Label("kidney", "left")) == "the left kidney"
    assert words.the(Label("vertebra L1")) == "vertebra L1"
    assert words.the(Label("rib 7", "left")) == "left rib 7"
    assert words.the(Label("kidney")) == "the kidney of either side"
    assert words.none_of(Label("autochthonous back muscles", "left")) == "there are no left autochthonous back muscles"
    assert words.capital("vertebra L1") == "Vertebra L1"


def test_the_names_used_are_those_of_the_vocabulary():
    assert set(DESCRIPTIONS) | set(PAIRED) <= set(anatomy.names())


def test_no_description_holds_a_word_of_its_name_or_serves_two():
    for name, texts in DESCRIPTIONS.items():
        for text in texts:
            said = set(text.lower().replace(",", "").replace("-", " ").split())
            assert said.isdisjoint(set(name.split()) - {"and"}), (name, text)
    every = [text for texts in DESCRIPTIONS.values() for text in texts]
    assert len(set(every)) == len(every)
