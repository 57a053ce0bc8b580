"""Every piece is in its request, nothing is asked for twice, and little that nobody wants."""

from hypothesis import given
from hypothesis import strategies as st

from medloom.model.ranges import plan_ranges

pieces = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 60), st.integers(0, 12)).map(lambda p: (p[0], p[1], p[1] + p[2])),
    max_size=14,
)


@given(pieces=pieces, gap=st.integers(0, 9), largest=st.integers(1, 40))
def test_every_piece_is_where_the_plan_says_and_no_byte_is_asked_for_twice(pieces, gap, largest):
    plan = plan_ranges(pieces, gap=gap, largest=largest)
    assert len(plan.places) == len(pieces)
    for (path, start, end), (number, at) in zip(pieces, plan.places, strict=True):
        where, first, last = plan.requests[number]
        assert (where, first + at) == (path, start)
        assert end <= last
    wanted = {(path, byte) for path, start, end in pieces for byte in range(start, end)}
    asked = [(path, byte) for path, start, end in plan.requests for byte in range(start, end)]
    assert len(asked) == len(set(asked)) == plan.size_bytes
    assert wanted <= set(asked)
    if gap == 0:
        assert wanted == set(asked)


def test_neighbours_come_together_and_what_is_far_apart_does_not():
    pieces = [("a", 100, 110), ("a", 0, 10), ("b", 10, 20), ("a", 13, 20), ("a", 24, 30), ("a", 13, 20)]
    plan = plan_ranges(pieces, gap=3)
    assert plan.requests == (("a", 0, 20), ("a", 24, 30), ("a", 100, 110), ("b", 10, 20))
    assert plan.places == ((2, 0), (0, 0), (3, 0), (0, 13), (1, 0), (0, 13))


def test_a_request_stops_growing_but_a_piece_is_never_cut():
    plan = plan_ranges([("a", 0, 6), ("a", 6, 12), ("a", 12, 50)], largest=12)
    assert plan.requests == (("a", 0, 12), ("a", 12, 50))


def test_nothing_asks_for_nothing():
    assert plan_ranges([]).requests == ()
