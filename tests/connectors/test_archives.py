"""Archives: what honest ones hold comes out; bombs, lies and traps are refused, one member or all, and cost little."""

import gzip
import io
import random
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medloom.connectors.archives import RATIO_FROM_BYTES, Limits, Member, check, index, kind_of, members
from medloom.schemas.errors import Refused


def tar_of(*files: tuple[str, bytes] | tarfile.TarInfo, kind: str = "tar.gz", form: int = tarfile.GNU_FORMAT) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz" if kind == "tar.gz" else "w", format=form) as tar:
        for file in files:
            if isinstance(file, tarfile.TarInfo):
                tar.addfile(file)
            else:
                info = tarfile.TarInfo(file[0])
                info.size = len(file[1])
                tar.addfile(info, io.BytesIO(file[1]))
    return held.getvalue()


def zip_of(*files: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return held.getvalue()


def packed(kind: str, *files: tuple[str, bytes]) -> bytes:
    return zip_of(*files) if kind == "zip" else tar_of(*files, kind=kind)


def opened(data: bytes, kind: str, limits: Limits | None = None) -> list[tuple[str, bytes | str]]:
    """Return (name, bytes or reason of refusal) of each member."""
    found: list[tuple[str, bytes | str]] = []
    for member in members(io.BytesIO(data), kind, limits):  # type: ignore[arg-type]
        if member.refused:
            found.append((member.name, member.refused.reason))
        else:
            found.append((member.name, member.read()))
            assert len(found[-1][1]) == member.size
    return found


def why(data: bytes, kind: str, limits: Limits | None = None) -> str:
    """Return the reason for which an archive is refused as a whole."""
    with pytest.raises(Refused) as raised:
        opened(data, kind, limits)
    return raised.value.reason


KINDS = pytest.mark.parametrize("kind", ["tar.gz", "tar", "zip"])
FILES = (("PMC1/a.nxml", b"<article/>"), ("PMC1/fig.jpg", bytes(range(256)) * 300), ("PMC1/empty.gif", b""))


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_open_archive_gives_its_files_in_any_order_and_again(kind):
    found = index(io.BytesIO(packed(kind, *FILES)), kind)
    for member, (name, data) in [*zip(found, FILES, strict=True)][::-1] * 2:
        assert (member.name, member.size, member.read()) == (name, len(data), data)


def test_an_open_tar_is_judged_as_a_streamed_one_is():
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    whole = tar_of(("../a", b"1"), ("b", b"2" * 600), ("b", b"3"), link, kind="tar")
    reasons = [member.refused and member.refused.reason for member in index(io.BytesIO(whole), "tar")]
    assert reasons == ["archive.path", None, "archive.duplicate", "archive.link"]
    for limits, reason in ((Limits(members=2), "archive.members"), (Limits(total_bytes=600), "archive.total")):
        with pytest.raises(Refused, match=reason):
            index(io.BytesIO(whole), "tar", limits)


def test_an_open_tar_that_is_cut_anywhere_is_refused():
    data = tar_of(("a", b"1" * 700), ("b", bytes(range(256)) * 8), kind="tar")
    for end in (1, 512, *range(1, 512 + 1024 + 512 + 2048, 37), 1536, 4096):
        with pytest.raises(Refused, match=r"archive\.(truncated|format|damaged)"):
            index(io.BytesIO(data[:end]), "tar")
    assert [member.name for member in index(io.BytesIO(data[: 4096 + 512]), "tar")] == ["a", "b"]


@KINDS
def test_an_honest_archive_gives_its_files_in_order(kind):
    assert opened(packed(kind, *FILES), kind) == list(FILES)


@KINDS
@settings(max_examples=30, deadline=None)
@given(files=st.dictionaries(st.text("abcé/.", min_size=1, max_size=8), st.binary(max_size=3000), max_size=6))
def test_what_is_packed_comes_out(kind, files):
    files = {f"x/{name.replace('..', '_').strip('/.')}y": data for name, data in files.items()}
    clean = {name: data for name, data in files.items() if "//" not in name and "/./" not in name}
    assert opened(packed(kind, *clean.items()), kind) == list(clean.items())


@KINDS
def test_members_may_be_left_unread(kind):
    data = packed(kind, *[(f"{i}", bytes([i]) * 70_000) for i in range(6)])
    read = [m.read()[:1] for m in members(io.BytesIO(data), kind) if m.name in "135"]
    assert read == [b"\1", b"\3", b"\5"]


@KINDS
def test_a_member_can_be_saved_to_a_file(kind, tmp_path):
    for member in members(io.BytesIO(packed(kind, *FILES)), kind):
        member.save(tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == dict(FILES)[member.name]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_tar_is_read(form):
    name = "PMC1/" + "n" * 90 + ("" if form == tarfile.USTAR_FORMAT else "-ü" * 60) + ".jpg"
    assert opened(tar_of((name, b"x" * 513), form=form), "tar.gz") == [(name, b"x" * 513)]


def test_a_gzip_stream_of_several_members_and_of_padding_is_one():
    data = tar_of(*FILES, kind="tar")
    assert opened(gzip.compress(data[:700]) + gzip.compress(data[700:]) + bytes(1000), "tar.gz") == list(FILES)


def test_folders_are_passed_over():
    folder = tarfile.TarInfo("PMC1")
    folder.type = tarfile.DIRTYPE
    assert opened(tar_of(folder, ("PMC1/a", b"x")), "tar.gz") == [("PMC1/a", b"x")]
    assert opened(zip_of(("PMC1/", b""), ("PMC1/a", b"x")), "zip") == [("PMC1/a", b"x")]


def test_an_archive_within_an_archive_stays_closed():
    inner = zip_of(("../../etc/passwd", b"x"))
    assert opened(tar_of(("inner.zip", inner)), "tar.gz") == [("inner.zip", inner)]


@KINDS
@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "/etc/passwd", "C:/x", "c:x", "\\\\host\\x", "a\\..\\x", "a/b\nc", "a\x7fb", "a/" * 40 + "x",
     "n" * 2000, ".."],
)  # fmt: skip
def test_a_name_that_leads_away_is_refused_and_its_neighbours_are_not(kind, name):
    found = opened(packed(kind, ("before", b"1"), (name, b"2"), ("after", b"3")), kind)
    assert [what for _, what in found] == [b"1", "archive.path", b"3"]


@KINDS
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_second_of_one_name_is_refused(kind):
    found = opened(packed(kind, ("a", b"1"), ("./a", b"2"), ("a", b"3"), ("A", b"4")), kind)
    assert [what for _, what in found] == [b"1", "archive.duplicate", "archive.duplicate", b"4"]


@pytest.mark.parametrize(
    ("type_", "reason"),
    [(tarfile.SYMTYPE, "archive.link"), (tarfile.LNKTYPE, "archive.link"), (tarfile.CHRTYPE, "archive.device"),
     (tarfile.BLKTYPE, "archive.device"), (tarfile.FIFOTYPE, "archive.device"), (b"Z", "archive.device")],
)  # fmt: skip
def test_a_tar_holds_files_and_nothing_else(type_, reason):
    odd = tarfile.TarInfo("odd")
    odd.type, odd.linkname = type_, "/etc/passwd"
    found = opened(tar_of(("a", b"1"), odd, ("b", b"2")), "tar.gz")
    assert found == [("a", b"1"), ("odd", reason), ("b", b"2")]


@pytest.mark.parametrize(("mode", "reason"), [(0o120777, "archive.link"), (0o020666, "archive.device")])
def test_a_zip_holds_files_and_nothing_else(mode, reason):
    odd = zipfile.ZipInfo("odd")
    odd.external_attr = mode << 16
    assert opened(zip_of(("a", b"1"), (odd, b"/etc/passwd")), "zip") == [("a", b"1"), ("odd", reason)]


def test_a_sparse_file_is_refused_whatever_size_it_states():
    info = tarfile.TarInfo("sparse")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[386:398], head[398:410] = b"00000000000\0", b"00000001000\0"  # one piece: 512 bytes at 0 …
    head[483:495] = b"77777777777\0"  # … of 8 GiB
    head[148:156] = b"        "
    head[148:156] = b"%06o\0 " % sum(head)
    data = bytes(head) + b"x" * 512 + tar_of(("b", b"2"), kind="tar")
    assert opened(data, "tar") == [("sparse", "archive.sparse"), ("b", b"2")]


@KINDS
def test_a_member_beyond_its_cap_is_refused_and_its_neighbours_are_not(kind):
    data = packed(kind, ("a", b"1"), ("large", bytes(101)), ("b", b"2" * 100))
    found = opened(data, kind, Limits(member_bytes=100))
    assert [what for _, what in found] == [b"1", "archive.member_bytes", b"2" * 100]


@KINDS
def test_too_many_members_and_too_many_bytes_refuse_the_whole(kind):
    data = packed(kind, *[(str(i), bytes(1000)) for i in range(20)])
    assert why(data, kind, Limits(members=19)) == "archive.members"
    assert why(data, kind, Limits(total_bytes=19_000)) == "archive.total"
    assert len(opened(data, kind, Limits(members=20, total_bytes=64_000))) == 20


@KINDS
def test_a_bomb_is_refused_before_it_goes_off(kind):
    """200 MB of zeros are 200 kB; memory stays bounded while they are read, refused members' bytes included."""
    data = packed(kind, ("zeros", bytes(200 << 20)))
    tracemalloc.start()
    if kind == "tar":
        assert why(data, kind, Limits(total_bytes=100 << 20)) == "archive.total"
    else:
        assert why(data, kind) == "archive.ratio"
        assert why(data, kind, Limits(member_bytes=1000)) == "archive.ratio"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(data) + 2 * RATIO_FROM_BYTES + (8 << 20)
    if kind == "tar.gz":
        for member in members(io.BytesIO(data), kind, Limits(ratio=2000)):
            assert sum(map(len, member.blocks())) == 200 << 20


@pytest.mark.parametrize("kind", ["tar.gz", "tar"])
def test_a_tar_that_is_cut_anywhere_is_never_taken_for_whole(kind):
    data = tar_of(("a", b"1" * 700), ("b", bytes(range(256)) * 8), kind=kind)
    whole = len(data) if kind == "tar.gz" else 512 + 1024 + 512 + 2048  # of a tar, the rest is padding
    allowed = {"archive.truncated", "archive.format", "archive.damaged"}
    for end in range(1, whole, 37):
        if kind == "tar" and end == 1536:
            continue  # between two members: without a checksum, nobody can tell
        assert why(data[:end], kind) in allowed, end


def test_whatever_was_whole_before_the_cut_has_been_given():
    noise = zlib.compress(b"x") + bytes(range(256)) * 400
    giving = members(io.BytesIO(tar_of(("a", b"1" * 700), ("b", noise))[:400]), "tar.gz")
    assert next(giving).read() == b"1" * 700
    with pytest.raises(Refused, match=r"archive.truncated"):
        list(map(Member.read, giving))


def test_a_failure_within_a_member_is_not_forgotten_by_the_next():
    cut = gzip.compress(tar_of(("a", random.Random(1).randbytes(9000)), ("b", b"2"), kind="tar"))[:5000]
    bomb = tar_of(("a", bytes(64 << 20)), ("b", b"2"))
    for data, reason in ((cut, "archive.truncated"), (bomb, "archive.ratio")):
        giving = members(io.BytesIO(data), "tar.gz")
        member = next(giving)
        with pytest.raises(Refused, match=reason):
            member.read()
        with pytest.raises(Refused, match=reason):
            next(giving)


def test_a_wrong_checksum_at_the_end_of_a_gzip_stream_is_noticed():
    data = bytearray(tar_of(*FILES))
    data[-6] ^= 1
    assert why(bytes(data), "tar.gz") == "archive.damaged"
    long = bytearray(gzip.compress(tar_of(*FILES, kind="tar") + bytes(300_000)))
    assert opened(bytes(long), "tar.gz") == list(FILES)
    long[-6] ^= 1
    assert why(bytes(long), "tar.gz") == "archive.damaged"


def test_a_tar_gz_is_verified_as_a_whole_before_it_is_used():
    data = tar_of(("a", b"1"), ("b", random.Random(1).randbytes(200_000)))
    file = io.BytesIO(data)
    check(file, "tar.gz")
    assert file.tell() == 0
    for spoilt in (data[:-1], data[:-6] + b"x" + data[-5:], data[:100_000]):
        with pytest.raises(Refused, match=r"archive.(truncated|damaged)"):
            check(io.BytesIO(spoilt), "tar.gz")


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end():
    data = bytearray(tar_of(("a", b"1"), ("b", b"2"), kind="tar"))
    data[1024 + 150] ^= 1
    assert why(bytes(data), "tar") == "archive.damaged"


@pytest.mark.parametrize("size", [1 << 40, 8 << 20])
def test_a_header_that_states_a_huge_header_is_refused_and_not_read(size):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, size
    tracemalloc.start()
    assert why(info.tobuf(tarfile.GNU_FORMAT) + bytes(16 << 20), "tar") == "archive.format"
    assert tracemalloc.get_traced_memory()[1] < 60 << 20
    tracemalloc.stop()


def test_an_endless_chain_of_headers_is_refused():
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2
    data = (info.tobuf(tarfile.GNU_FORMAT) + b"x\0".ljust(512, b"\0")) * 3000
    assert why(data, "tar") == "archive.format"


@pytest.mark.parametrize("size", [1, 511, 513, 1 << 20, 1 << 60])
def test_a_negative_size_is_no_way_back(size):
    head = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
    head[124:136] = b"\xff" + (256**11 - size).to_bytes(11, "big")  # -size, in base 256
    head[148:156] = b"        "
    head[148:156] = b"%06o\0 " % sum(head)
    found = []
    with suppress(Refused):
        for member in members(io.BytesIO(bytes(head) * 3 + bytes(2048)), "tar"):
            found.append(member.refused and member.refused.reason)
    assert len(found) <= 3
    assert set(found) <= {"archive.damaged", "archive.duplicate"}


def test_names_that_are_no_utf8_are_escaped():
    info = tarfile.TarInfo("x")
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[0:4] = b"a\xff\xfeb"
    head[148:156] = b"        "
    head[148:156] = b"%06o\0 " % sum(head)
    ((name, _),) = opened(bytes(head) + bytes(1024), "tar")
    assert name == "a\\xff\\xfeb"
    name.encode()


@KINDS
@pytest.mark.parametrize("data", [b"", b"x", b"<html>not found</html>" * 50, bytes(100), b"PK\5\6", b"\x1f\x8b\x08"])
def test_what_is_no_archive_is_refused(kind, data):
    assert why(data, kind).startswith("archive.")


def test_an_empty_archive_has_no_member():
    assert opened(tar_of(), "tar.gz") == opened(tar_of(kind="tar"), "tar") == opened(zip_of(), "zip") == []


def lying(data: bytes, **fields: int) -> bytes:
    """Return a zip of one member with other values in its directory (and, for sizes, in its local header)."""
    at = data.index(b"PK\1\2")
    changed = bytearray(data)
    place = {"flags": (8, "<H"), "method": (10, "<H"), "crc": (16, "<I"), "packed": (20, "<I"), "size": (24, "<I"),
             "offset": (42, "<I")}  # fmt: skip
    for name, value in fields.items():
        struct.pack_into(place[name][1], changed, at + place[name][0], value)
    return bytes(changed)


@pytest.mark.parametrize(
    ("lie", "reason"),
    [({"size": 10}, "archive.damaged"), ({"size": 100_000}, "archive.damaged"), ({"crc": 1}, "archive.damaged"),
     ({"flags": 1}, "archive.encrypted"), ({"method": 14}, "archive.method"), ({"method": 99}, "archive.method"),
     ({"method": 0}, "archive.damaged")],
)  # fmt: skip
def test_a_zip_that_lies_of_a_member_is_refused_that_member(lie, reason):
    data = lying(zip_of(("a", b"12345678" * 50)), **lie)
    (member,) = list(members(io.BytesIO(data), "zip"))
    with pytest.raises(Refused) as raised:
        member.read()
    assert raised.value.reason == reason


def test_a_zip_that_states_little_and_holds_much_gives_no_more_than_it_states():
    data = lying(zip_of(("bomb", bytes(300 << 20))), size=1000)
    (member,) = list(members(io.BytesIO(data), "zip"))
    tracemalloc.start()
    with pytest.raises(Refused, match=r"archive.damaged"):
        member.read()
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_a_zip_whose_member_starts_before_it_is_refused():
    data = bytearray(zip_of(("a", b"1")))
    struct.pack_into("<I", data, data.rfind(b"PK\5\6") + 16, len(data))  # where the directory is said to be
    assert why(bytes(data), "zip") == "archive.format"


def test_members_of_a_zip_that_share_bytes_are_refused():
    """The trick by which a zip of 42 kB holds 5 GB: many entries of the directory over one packed piece."""
    data = zip_of(("a", bytes(100_000)), ("b", b"x"))
    at = data.rindex(b"PK\1\2")
    overlapping = bytearray(data)
    struct.pack_into("<I", overlapping, at + 42, 0)
    assert why(bytes(overlapping), "zip") == "archive.overlap"
    assert why(lying(zip_of(("a", b"x" * 100)), packed=1 << 20), "zip") == "archive.overlap"


def test_a_huge_directory_of_a_zip_is_refused_before_it_is_read():
    data = zip_of(*[(f"{i:050d}", b"") for i in range(3000)], method=zipfile.ZIP_STORED)
    assert why(data, "zip", Limits(members=500)) == "archive.members"
    end = data.rindex(b"PK\5\6")
    lie = bytearray(data)
    struct.pack_into("<I", lie, end + 12, 1 << 31)
    assert why(bytes(lie), "zip") == "archive.members"


def test_a_zip_of_more_than_65535_members_is_read():
    data = zip_of(*[(str(i), b"") for i in range(66_000)], method=zipfile.ZIP_STORED)
    assert sum(1 for _ in members(io.BytesIO(data), "zip")) == 66_000


def test_bytes_are_never_had_of_a_refused_member():
    (member,) = list(members(io.BytesIO(tar_of(("../x", b"secret"))), "tar.gz"))
    with pytest.raises(Refused, match=r"archive.path"):
        member.read()
    with pytest.raises(Refused):
        Member("x", 0).read()


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["tar.gz", "tar", "zip"]))
def test_a_damaged_archive_gives_true_bytes_or_a_refusal(data, kind):
    """Bytes flipped anywhere: every member that is read is as packed (a plain tar has no checksum), nothing crashes."""
    changed = bytearray(packed(kind, *FILES))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    found = []
    with suppress(Refused):
        found = opened(bytes(changed), kind)
    if kind != "tar":
        assert {what for _, what in found if isinstance(what, bytes)} <= {data for _, data in FILES}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a/PMC1.tar.gz", "tar.gz"), ("x.TGZ", "tar.gz"), ("x.tar", "tar"), ("x.ZIP", "zip"), ("x.gz", None),
     ("tar.gz.csv", None)],
)  # fmt: skip
def test_the_kind_stands_in_the_name(name, kind):
    assert kind_of(name) == kind
