import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builds import synthetic_release

from medloom.schemas.errors import ConfigError, FormatError, SourceError
from medloom.schemas.release import (
    QUERIED,
    SEVERITY,
    Release,
    States,
    append_overlay,
    matches,
    parse_query,
    read_overlay,
    relative_uri,
    resolve_uri,
)
from medloom.schemas.store import Store
from medloom.schemas.tables import RELEASE_ROW, STATE

NAMES = st.sampled_from("abcde")
KINDS = {pa.string(): NAMES, pa.int32(): st.integers(0, 3), pa.list_(pa.string()): st.lists(NAMES, max_size=3)}
ROWS = st.fixed_dictionaries({name: KINDS[RELEASE_ROW.field(name).type] for name in QUERIED})
QUERIES = st.lists(
    st.tuples(st.sampled_from(QUERIED), st.sampled_from([*"abcde", "0", "2"])), min_size=1, max_size=2
).map(lambda pairs: ",".join(f"{column}={value}" for column, value in pairs))
SUBJECTS = st.one_of(
    st.tuples(st.sampled_from(("example", "medium", "group")), NAMES), st.tuples(st.just("query"), QUERIES)
)


def said(scope: str, name: str, state: str) -> dict[str, str]:
    return {"scope": scope, "id": name, "state": state, "reason": "r", "by": "b"}


def states(*rows: dict[str, str]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=STATE)


@settings(max_examples=200)
@given(
    st.lists(ROWS, max_size=8), st.dictionaries(SUBJECTS, st.sampled_from(list(SEVERITY)), max_size=6), st.booleans()
)
def test_states_of_many_rows_are_those_of_each(rows, worst, chunked):
    table = pa.Table.from_pylist(rows, schema=RELEASE_ROW)
    if chunked:
        table = pa.concat_tables([table.slice(i, 1) for i in range(len(rows))] or [table])
    of = States(worst)
    assert of.of_rows(table).to_pylist() == [of.of_row(row) for row in rows]


def test_a_row_takes_the_worst_of_itself_its_media_its_group_and_queries():
    row = dict.fromkeys(RELEASE_ROW.names, "x") | {"example_id": "e", "group": "g", "media": ["m", "n"], "task": "vqa"}
    for subject in (("example", "e"), ("group", "g"), ("medium", "n"), ("query", "task=vqa")):
        assert States({subject: "withheld"}).of_row(row) == "withheld"
        assert States({subject: "withheld", ("medium", "m"): "withdrawn"}).of_row(row) == "withdrawn"
    assert States({("medium", "o"): "withdrawn", ("query", "task=vqa,split=test"): "withdrawn"}).of_row(row) == "live"


def test_later_states_lift_earlier_ones_but_a_withdrawal_stays():
    lifted = States.of(states(said("medium", "m", "withheld")), states(said("medium", "m", "live")))
    assert lifted.worst == {("medium", "m"): "live"}
    stays = States.of(states(said("medium", "m", "withdrawn")), states(said("medium", "m", "live")))
    assert stays.worst == {("medium", "m"): "withdrawn"}


def test_a_query_holds_when_all_its_conditions_do():
    row = {"task": "vqa", "modalities": ["CT", "MR"], "build": 1}
    assert matches(row, "task=vqa")
    assert matches(row, "task=vqa,modalities=MR,build=1")
    assert not matches(row, "task=vqa,modalities=US")


@pytest.mark.parametrize("query", ["", "task", "task=", "colour=red", "task=vqa,", "=x"])
def test_what_is_no_query(query):
    with pytest.raises(ConfigError, match="columns are example_id"):
        parse_query(query)


@pytest.fixture
def build(tmp_path) -> str:
    return synthetic_release(tmp_path, n_units=6)


def test_a_release_is_found_by_its_folder_and_by_its_build(build):
    assert Release(build).digest == Release(f"{build}/releases").digest
    with pytest.raises(SourceError, match=r"has no release 7; it has 1"):
        Release(build, number=7)
    with pytest.raises(SourceError, match="holds no release"):
        Release(f"{build}/media")


def test_rows_that_were_changed_are_refused(build):
    release = Release(build)
    release.store.write_table("0001/rows.parquet", release.rows.slice(1))
    with pytest.raises(FormatError, match="was changed after release 1"):
        assert Release(build).rows


def test_a_build_that_was_changed_is_refused(build):
    store = Store(build)
    data = store.read("manifests/0001.json")
    store.write("manifests/0001.json", data.replace(b'"synthetic"', b'"other"'))
    with pytest.raises(FormatError, match="pins another manifest 1"):
        Release(build).builds()
    store.delete("manifests/0001.json")
    with pytest.raises(FormatError, match="which is not there"):
        Release(build).builds()


def test_overlay_parts_are_appended_and_read_in_order(build):
    store = Release(build).store
    paths = [append_overlay(store, [said("group", f"g{i}", "withheld")]) for i in range(3)]
    assert paths == [f"overlay/{i:04d}.parquet" for i in (1, 2, 3)]
    assert read_overlay(store)["id"].to_pylist() == ["g0", "g1", "g2"]


def test_a_flipped_bit_of_the_overlay_never_loses_a_withdrawal(build):
    release = Release(build)
    path = release.store.local(
        append_overlay(release.store, [said("medium", release.rows["media"][0].as_py()[0], "withdrawn")])
    )
    live, good, refused = release.live_rows().num_rows, path.read_bytes(), 0
    assert live < release.rows.num_rows
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        try:
            again = Release(build)
            assert States.of(again._by_policy, read_overlay(again.store)).worst == again.states().worst
            assert again.live_rows().num_rows == live
        except (FormatError, OSError, ValueError) as fault:
            refused += isinstance(fault, FormatError)
    assert refused > 9  # what Parquet reads as other rows


def test_a_part_of_an_older_release_that_has_no_checksum_is_read(build):
    store = Release(build).store
    store.write_table("overlay/0001.parquet", states(said("group", "g0", "withheld")))
    assert read_overlay(store)["id"].to_pylist() == ["g0"]
    assert Release(build).states().worst[("group", "g0")] == "withheld"


def test_two_curators_at_once_lose_nothing(build, monkeypatch):
    store, other = Release(build).store, Release(build).store
    listed = store.names
    append_overlay(other, [said("group", "g0", "withheld")])
    monkeypatch.setattr(store, "names", lambda folder: listed(folder)[:-1])  # what the slower one saw before
    append_overlay(store, [said("group", "g1", "withheld")])
    assert read_overlay(other)["id"].to_pylist() == ["g0", "g1"]


def test_live_rows_are_those_of_a_split_that_nothing_keeps_back(build):
    release = Release(build)
    row = release.live_rows("train").to_pylist()[0]
    append_overlay(release.store, [said("example", row["example_id"], "withheld")])
    live = release.live_rows("train")["example_id"].to_pylist()
    assert row["example_id"] not in live
    assert len(live) == sum(r["split"] == "train" for r in release.rows.to_pylist()) - 1
    assert release.live_rows().num_rows == release.rows.num_rows - 1


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=4), st.lists(st.sampled_from("abc"), min_size=1, max_size=4)
)
def test_a_build_is_found_from_where_its_release_lies(build, base):
    build, base = "/data/" + "/".join(build), "/data/" + "/".join(base)
    uri = relative_uri(build, base=base)
    assert not uri.startswith("/")
    assert resolve_uri(uri, base=base) == build
    assert resolve_uri(uri, base=base.replace("/data", "/moved")) == build.replace("/data", "/moved")


def test_builds_elsewhere_keep_their_url():
    assert relative_uri("memory://x/out", base="/rel") == "memory://x/out"
    assert resolve_uri("memory://x/out", base="/rel") == "memory://x/out"
