import subprocess
import tarfile
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medloom.schemas import shard
from medloom.schemas.build import conform
from medloom.schemas.errors import FormatError, Refused
from medloom.schemas.medium import LAYOUTS, Member, Sample
from medloom.schemas.shard import ShardName, ShardWriter, read_member, shard_name, tar_header
from medloom.schemas.store import Store
from medloom.schemas.tables import INDEX, measured_values

SHARD = ShardName("train", 7)
KEYS = st.from_regex(r"[a-z0-9_-]{1,64}", fullmatch=True)
MEMBERS = st.builds(
    Member,
    data=st.binary(max_size=1600),  # several tar blocks, and none at all
    shape=st.lists(st.integers(1, 9), max_size=3).map(tuple),
    dtype=st.sampled_from(("", "uint8", "int16")),
    spacing_mm=st.lists(st.floats(0.1, 9), max_size=3).map(tuple),
    chunk_offsets=st.lists(st.integers(-1, 1 << 40), max_size=3).map(tuple),
)


def columns(layout: str, **changes) -> dict:
    named = (
        "unit",
        "group",
        "modality",
        "body_part",
        "plane",
        "source",
        "licence",
        "terms_id",
        "digest",
        "pixel_digest",
    )
    return {name: f"its {name}" for name in named} | {"split": "train", "layout": layout, "measured": {}} | changes


@st.composite
def samples(draw) -> list[Sample]:
    found = []
    for key in draw(st.lists(KEYS, unique=True, max_size=6)):
        layout = draw(st.sampled_from(sorted(LAYOUTS)))
        members = {field: draw(MEMBERS) for field in LAYOUTS[layout]}
        measured = draw(st.dictionaries(st.sampled_from("abc"), st.floats(-1, 1), max_size=3))
        found.append(Sample(key, layout, members, columns(layout, measured=measured)))
    return found


def written(folder, found: list[Sample]) -> tuple[Store, dict]:
    store = Store(str(folder))
    with ShardWriter(store, SHARD) as writer:
        for sample in found:
            writer.add(sample)
        return store, writer.close()


@settings(max_examples=40)
@given(samples(), st.randoms(use_true_random=False))
def test_what_is_read_is_what_was_written_in_any_order(tmp_path_factory, found, random):
    store, facts = written(tmp_path_factory.mktemp("one"), found)
    shuffled = list(found)
    random.shuffle(shuffled)
    assert written(tmp_path_factory.mktemp("two"), shuffled)[1] == facts  # equal sha256 of tars and indexes
    by_key = {sample.key: sample for sample in found}
    seen = []
    for layout in facts:
        table = store.read_table(SHARD.index(layout))
        assert table.schema.remove_metadata() == INDEX
        for row in conform(table, INDEX).to_pylist():
            sample = by_key[row["key"]]
            member = sample.members[row["field"]]
            assert read_member(store, SHARD.tar(layout), row) == member.data
            assert row["offset"] % 512 == 0
            for name in ("shape", "spacing_mm", "chunk_shape", "block_shape", "chunk_offsets"):
                assert tuple(row[name]) == getattr(member, name)
            shown = {name: row[name] for name in sample.columns} | {"measured": measured_values(row["measured"])}
            assert shown == sample.columns
            seen.append((row["key"], row["field"]))
    assert seen == [(s.key, f) for layout in sorted(facts) for s in sorted(found, key=lambda s: s.key)
                    if s.layout == layout for f in LAYOUTS[layout]]  # fmt: skip


@settings(max_examples=20)
@given(samples())
def test_gnu_tar_and_python_list_every_member_where_the_index_says(tmp_path_factory, found):
    store, facts = written(tmp_path_factory.mktemp("tar"), found)
    for layout in facts:
        rows = store.read_table(SHARD.index(layout)).to_pylist()
        names = [f"{row['key']}.{row['field']}" for row in rows]
        listed = subprocess.run(
            ["tar", "tvf", store.path(SHARD.tar(layout))], capture_output=True, text=True, check=True
        )
        assert listed.stderr == ""
        assert [line.split()[-1] for line in listed.stdout.splitlines()] == names
        assert all(line.startswith("-rw-r--r-- 0/0") for line in listed.stdout.splitlines())
        with tarfile.open(store.path(SHARD.tar(layout)), format=tarfile.USTAR_FORMAT) as tar:
            have = [(m.name, m.offset_data, m.size, m.mtime) for m in tar]
        assert have == [(n, row["offset"], row["size"], 0) for n, row in zip(names, rows, strict=True)]


@pytest.fixture
def one(tmp_path) -> tuple[Store, list[dict]]:
    sample = Sample("k", "png", {"json": Member(b"{}"), "png": Member(b"pixels" * 200)}, columns("png"))
    store, _ = written(tmp_path, [sample])
    return store, store.read_table(SHARD.index("png")).to_pylist()


@pytest.mark.parametrize("at", [0, 5, 1199])
def test_a_flipped_byte_is_found(one, at):
    store, rows = one
    data = bytearray(store.read(SHARD.tar("png")))
    data[rows[1]["offset"] + at] ^= 1
    store.write(SHARD.tar("png"), bytes(data))
    assert read_member(store, SHARD.tar("png"), rows[0]) == b"{}"
    with pytest.raises(FormatError, match=r"k\.png is not the bytes that its index row promises"):
        read_member(store, SHARD.tar("png"), rows[1])


def test_a_cut_tar_is_found(one):
    store, rows = one
    store.write(SHARD.tar("png"), store.read(SHARD.tar("png"))[: rows[1]["offset"] + 10])
    with pytest.raises(FormatError, match="is not the bytes"):
        read_member(store, SHARD.tar("png"), rows[1])


@given(st.text(max_size=70))
def test_only_keys_name_samples(key):
    writer = ShardWriter(Store("memory://never"), SHARD)
    sample = Sample(key, "png", {"json": Member(b""), "png": Member(b"")}, columns("png"))
    allowed = 1 <= len(key) <= 64 and set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    with writer:
        if allowed:
            writer.add(sample)
        else:
            with pytest.raises(Refused, match=r"^key\.form"):
                writer.add(sample)


def test_a_key_is_taken_once_and_fields_are_those_of_the_layout(tmp_path):
    with ShardWriter(Store(str(tmp_path)), SHARD) as writer:
        members = {"json": Member(b""), "png": Member(b"")}
        writer.add(Sample("k", "png", members, columns("png")))
        with pytest.raises(Refused, match=r"^key\.duplicate"):
            writer.add(Sample("k", "png", members, columns("png")))
        with pytest.raises(ValueError, match="are not those of jpg"):
            writer.add(Sample("j", "jpg", members, columns("jpg")))


def test_a_shard_that_is_given_up_writes_nothing(tmp_path):
    with ShardWriter(Store(str(tmp_path)), SHARD) as writer:
        writer.add(Sample("k", "png", {"json": Member(b""), "png": Member(b"")}, columns("png")))
    assert list(tmp_path.iterdir()) == []


def test_the_longest_names_fit_ustar(tmp_path):
    key = "k" * 64
    members = {field: Member(b"x") for field in LAYOUTS["volume-seg"]}
    store, _ = written(tmp_path, [Sample(key, "volume-seg", members, columns("volume-seg"))])
    with tarfile.open(fileobj=BytesIO(store.read(SHARD.tar("volume-seg")))) as tar:
        assert tar.getnames() == [f"{key}.{field}" for field in LAYOUTS["volume-seg"]]


@given(st.from_regex(r"[a-z0-9_]{1,12}", fullmatch=True), st.integers(0, 999_999))
def test_shard_names_read_back(split, number):
    name = ShardName(split, number)
    assert shard_name(str(name)) == name


@pytest.mark.parametrize("text", ["", "train", "train-1", "train-00000x", "-000001", "train-0000001"])
def test_what_is_no_shard_name(text):
    with pytest.raises(FormatError, match="is not the name of a shard"):
        shard_name(text)


@settings(deadline=None, max_examples=20)
@given(found=samples())
def test_samples_that_wait_in_memory_or_in_the_spool_give_the_same_tar(tmp_path_factory, found):
    made = []
    for kept in (0, 900, 1 << 20):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(shard, "KEPT_BYTES", kept)
            made.append(written(tmp_path_factory.mktemp("kept"), found)[1])
    assert made[0] == made[1] == made[2]


@settings(deadline=None, max_examples=200)
@given(
    name=st.text(st.characters(codec="ascii", exclude_characters="\0/"), min_size=1, max_size=130).filter(
        lambda name: name.strip() == name
    ),
    size=st.one_of(st.integers(0, 8**11 - 1), st.sampled_from([0, 1, 511, 512, 8**11 - 1])),
)
def test_a_header_is_what_tarfile_writes(name, size):
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    try:
        wanted = info.tobuf(format=tarfile.USTAR_FORMAT)
    except ValueError:  # too long for ustar
        with pytest.raises(ValueError, match="too long"):
            tar_header(name, size)
        return
    assert tar_header(name, size) == wanted
