"""A region is a pure function of seed, draw and key, inside the medium, and uniform over it."""

import numpy as np
import pytest

from medloom.model.regions import check_roi, region_of
from medloom.schemas.errors import ConfigError
from medloom.schemas.example import Example, Part, Turn

EXAMPLE = Example("e", "u", "g", "train", "t", "en", "r", "s", "l", "cc-by", (Turn("user", (Part(media="k"),)),))


def box_of(roi, shape, *, seed=1, t=5, key="k", is_picture=False):
    return region_of(roi, seed=seed, t=t, example=EXAMPLE, key=key, shape=shape, is_picture=is_picture)


def test_the_same_draw_takes_the_same_place_and_another_one_another():
    patch, shape = (16, 32, 32), (100, 512, 512)
    assert box_of(patch, shape) == box_of(patch, shape)
    others = {box_of(patch, shape, **other) for other in ({"seed": 2}, {"t": 6}, {"key": "l"}, {"t": -1})}
    assert box_of(patch, shape) not in others
    assert len(others) == 4


def test_places_do_not_change_with_versions():
    """A resume on another machine must cut where the first run did."""
    assert box_of((16, 32, 32), (100, 512, 512), seed=7, t=11, key="ct-1") == (38, 383, 401, 54, 415, 433)


def test_a_patch_is_uniform_over_the_places_it_can_have():
    found = [box_of((2, 3, 4), (4, 5, 5), t=t) for t in range(3600)]
    assert all(b[3] - b[0] == 2 and b[4] - b[1] == 3 and b[5] - b[2] == 4 for b in found)
    counts = np.zeros((3, 3, 2), int)
    for box in found:
        counts[box[:3]] += 1
    chi2 = ((counts - 200) ** 2 / 200).sum()
    assert chi2 < 40  # 17 degrees of freedom: 0.1 % of fair draws are above 40.8


def test_a_patch_is_clipped_to_the_volume():
    box = box_of((64, 64, 64), (20, 100, 64))
    assert (box[0], box[3], box[2], box[5]) == (0, 20, 0, 64)
    assert box[4] - box[1] == 64
    assert box_of((64, 64, 64), (20, 64, 30)) == ()  # all of it
    assert box_of((64, 64, 64), (64, 64, 64)) == ()


def test_a_patch_never_cuts_a_picture():
    assert box_of((8, 8, 8), (40, 50, 3), is_picture=True) == ()
    assert box_of((8, 8, 8), (40, 50), is_picture=True) == ()


def test_a_function_is_told_what_is_drawn_and_may_take_all():
    told = []

    def middle(example, key, shape, t):
        told.append((example.example_id, key, shape, t))
        return None if t == 0 else (1, 2, 3, 4, 5, np.int64(6))

    assert box_of(middle, (9, 9, 9)) == (1, 2, 3, 4, 5, 6)
    assert box_of(middle, (9, 9, 9), t=0) == ()
    assert told == [("e", "k", (9, 9, 9), 5), ("e", "k", (9, 9, 9), 0)]
    assert box_of(lambda *_: (0, 0, 0, 9, 9, 9), (9, 9, 9)) == ()
    assert box_of(lambda *_: (1, 2, 30, 40), (40, 50, 3), is_picture=True) == (1, 2, 30, 40)


@pytest.mark.parametrize("box", [(0, 0, 0, 9, 9, 10), (-1, 0, 0, 9, 9, 9), (3, 0, 0, 3, 9, 9), (0, 0, 4, 4)])
def test_a_box_that_is_not_inside_names_the_medium(box):
    with pytest.raises(ConfigError, match="of k, which has the extent"):
        box_of(lambda *_: box, (9, 9, 9))


@pytest.mark.parametrize("roi", [(0, 1, 1), (1, 1), (1, 1, 1, 1), (1.5, 2, 2), (True, 1, 1)])
def test_a_patch_that_is_none_is_refused(roi):
    with pytest.raises(ConfigError, match="roi"):
        check_roi(roi)
    assert check_roi([8, 8, 8]) == (8, 8, 8)
    assert check_roi(None) is None
