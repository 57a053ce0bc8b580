import io
import os
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medloom.schemas.errors import FormatError
from medloom.schemas.tar_walk import BLOCK, MAX_CHAIN, MAX_EXTENSION, Walked, walk

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
Members = list[tuple[str, int, int]]


def walked(data: bytes, **options) -> Walked:
    return walk(lambda start, end: data[start:end], size=len(data), where="a.tar", **options)


def members(found: Walked) -> Members:
    return list(zip(found.names, found.offsets.tolist(), found.sizes.tolist(), strict=True))


def by_tarfile(data: bytes) -> Members:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        return [(m.name, m.offset_data, m.size) for m in archive if m.isreg() and not m.issparse() and m.type != b"S"]


def made(entries: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT, **changes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for attribute, value in changes.items():
                setattr(info, attribute, value)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def header(name: bytes = b"a.jpg", size: bytes = b"00000000000\0", kind: bytes = b"0", **changes: bytes) -> bytes:
    """A ustar header made by hand, its checksum right."""
    block = bytearray(BLOCK)
    block[:100] = name.ljust(100, b"\0")[:100]
    block[124:136] = size
    block[156:157] = kind
    block[257:265] = changes.get("magic", b"ustar\x0000")
    block[148:156] = b" " * 8
    block[148:156] = changes.get("checksum", b"%06o\0 " % sum(block))
    return bytes(block)


END = bytes(2 * BLOCK)
NAMES = st.lists(st.text("aé日.-_ ", min_size=1, max_size=9), min_size=1, max_size=40).map("/".join)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=1600)), max_size=12),
    st.sampled_from(["gnu", "pax"]),
    st.sampled_from([1, 512, 4096, 1 << 20]),
)
def test_a_walk_finds_what_tarfile_finds(entries, form, worth):
    data = made(entries, FORMATS[form], mtime=1.5 if form == "pax" else 0)
    assert members(walked(data, worth=worth)) == by_tarfile(data)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 9000), min_size=1, max_size=40), st.sampled_from([1, 700, 4096]))
def test_window_sizes_change_nothing(sizes, worth):
    data = made([(f"{'f' * 99}/{i:03d}.bin", bytes(size)) for i, size in enumerate(sizes)])
    assert members(walked(data, worth=worth)) == by_tarfile(data)


def test_more_headers_than_are_verified_at_once():
    data = made([(f"{i:06d}.txt", b"x" * (i % 3)) for i in range(9000)])
    assert members(walked(data)) == by_tarfile(data)


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_archives_of_gnu_tar_with_links_folders_and_sparse_files(form, tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"picture")
    os.link(folder / "a.jpg", folder / "b.jpg")
    (folder / "c.jpg").symlink_to("a.jpg")
    os.mkfifo(folder / "pipe")
    if form not in ("v7", "ustar"):
        (folder / "deep" / ("n" * 90) / ("m" * 90)).mkdir(parents=True)
        (folder / "deep" / ("n" * 90) / ("m" * 90) / ("ö" * 60 + ".txt")).write_bytes(b"long")
    with (folder / "holes.bin").open("wb") as file:
        for number in range(30):  # more holes than the first header has room for
            file.seek(number * 65536)
            file.write(b"x" * 4096)
    command = ["tar", "cf", tmp_path / "a.tar", f"--format={form}", "-C", folder, "--sort=name"]
    command += ["--sparse"] if form in ("oldgnu", "gnu", "posix") else []
    done = subprocess.run([*map(str, command), "."], capture_output=True, check=False)
    assert done.returncode == (2 if form == "v7" else 0)  # V7 has no pipes, and says so
    data = (tmp_path / "a.tar").read_bytes()
    found = walked(data)
    assert members(found) == by_tarfile(data)
    assert {name.rsplit("/", 1)[-1] for name in found.names} >= {"a.jpg"}
    assert found.skipped["link"] == 2
    assert found.skipped["directory"] >= 2
    assert ("sparse" in found.skipped) == (form in ("oldgnu", "gnu", "posix"))
    for name, offset, size in members(found):
        assert data[offset : offset + size] == (folder / name).read_bytes()


def test_a_member_of_nine_gigabytes(tmp_path):
    info = tarfile.TarInfo("big.bin")
    info.size = 9 << 30
    with (tmp_path / "big.tar").open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))  # base 256
        file.seek(9 << 30, 1)
        file.write(tarfile.TarInfo("b.txt").tobuf(tarfile.USTAR_FORMAT) + END)
    with (tmp_path / "big.tar").open("rb") as file:
        found = walk(lambda a, b: os.pread(file.fileno(), b - a, a), size=file.seek(0, 2), where="big.tar")
    assert members(found) == [("big.bin", 512, 9 << 30), ("b.txt", 1024 + (9 << 30), 0)]


def test_a_pax_size_counts_and_not_the_one_in_the_header():
    record = b"15 size=000700\n"
    data = header(b"x", b"%011o\0" % len(record), b"x") + record.ljust(BLOCK, b"\0")
    data += header(b"a.bin", b"00000000001\0") + bytes(1024) + header(b"b.bin") + END
    assert members(walked(data)) == [("a.bin", 1536, 700), ("b.bin", 3072, 0)]


def test_every_cut_is_noticed():
    data = made([("a.jpg", b"x" * 700), ("n" * 120 + ".txt", b"hello"), ("c.json", b"{}")], tarfile.GNU_FORMAT)
    end = by_tarfile(data)[-1][1] + BLOCK
    assert data[end : end + BLOCK] == bytes(BLOCK)
    for length in range(end + BLOCK):
        with pytest.raises(FormatError, match=r"cannot read a.tar at byte \d+: it "):
            walked(data[:length])
    assert members(walked(data[: end + BLOCK])) == by_tarfile(data)


@pytest.mark.parametrize("form", FORMATS)
def test_no_flipped_bit_of_a_header_changes_the_answer(form):
    data = made(
        [("a.jpg", b"x" * 700), ("b" * 70 + "/c.json", b"{}")], FORMATS[form], mtime=1.5 if form == "pax" else 0
    )
    whole, noticed = members(walked(data)), 0
    headers = [offset - BLOCK for _, offset, _ in whole]
    for place in (at + byte for at in headers for byte in range(BLOCK)):
        for bit in range(8) if form == "ustar" else [place % 8]:
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            try:
                assert members(walked(bytes(flipped))) == whole
            except FormatError:
                noticed += 1
    # The two bytes behind the digits of a checksum say nothing, and a space in front of them is as good as a zero.
    assert noticed >= (BLOCK - 3) * len(headers) * (8 if form == "ustar" else 1)


def test_a_damaged_header_far_on_is_named_by_its_byte():
    data = bytearray(made([(f"{i:05d}.txt", b"") for i in range(6000)]))
    data[5000 * BLOCK + 3] ^= 1
    with pytest.raises(FormatError, match=f"at byte {5000 * BLOCK}: it has a header that fails its checksum"):
        walked(bytes(data))


@pytest.mark.parametrize("command", ["gzip", "bzip2", "xz", "zstd"])
def test_compressed_tars_are_refused_with_what_to_do(command):
    data = made([("a.txt", b"text")])
    done = subprocess.run([command, "-c"], input=data, capture_output=True, check=False)
    packed = done.stdout if done.returncode == 0 else b""
    if not packed:
        pytest.skip(f"needs {command}")
    with pytest.raises(FormatError, match=f"is compressed.*`{command} -d`"):
        walked(packed.ljust(BLOCK, b"\0"))


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return header(b"h", b"%011o\0" % len(records), kind) + records + bytes(-len(records) % BLOCK)


HOSTILE = {
    "nothing": (b"", "is empty"),
    "one block": (header(), "has no end"),
    "no tar": (b"\xff\xd8\xff\xe0" * 512, "whose size is"),
    "a size without digits": (header(size=b"0000000z000\0") + END, "without a size"),
    "a size with an underscore": (header(size=b"0000000_000\0") + END, "whose size is"),
    "a negative size": (header(size=b"-0000000512\0") + END, "whose size is"),
    "a negative base 256 size": (header(size=b"\xff" * 12) + END, "whose size is"),
    "a size beyond the file": (header(size=b"00000010000\0") + END, "promises 4096 bytes"),
    "a base 256 size beyond the file": (header(size=b"\x80" + b"\xff" * 11) + END, "promises"),
    "a folder with bytes": (header(b"d/", b"00000001000\0", b"5") + END, "gives a directory 512 bytes"),
    "a link with bytes": (header(b"l", b"00000001000\0", b"2") + END, "gives a link 512 bytes"),
    "an extension before the end": (pax(b"10 path=a\n") + END, "that no member follows"),
    "an extension too long": (header(size=b"%011o\0" % (MAX_EXTENSION + 1), kind=b"L") + END, "extension header of"),
    "extensions without end": (pax(b"10 path=a\n") * (MAX_CHAIN + 1) + header() + END, "more than"),
    "one name for all": (pax(b"10 path=a\n", b"g") + header() + END, "one name or size"),
    "one size for all": (pax(b"10 size=9\n", b"g") + header() + END, "one name or size"),
    "a record too long": (pax(b"99 path=a\n") + header() + END, "pax record that is none"),
    "a record without length": (pax(b"path=a\n") + header() + END, "pax record that is none"),
    "a record of length 0": (pax(b"0 path=a\n") + header() + END, "pax record that is none"),
    "a pax size of words": (pax(b"13 size=many\n") + header() + END, "a size of"),
    "a pax size of thousands of digits": (pax(b"5011 size=%s\n" % (b"9" * 5000)) + header() + END, "a size of"),
    "a checksum of words": (header(checksum=b"checksum") + END, "fails its checksum"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_no_reader_can_trust_is_refused(what):
    data, found = HOSTILE[what]
    with pytest.raises(FormatError, match=found):
        walked(data)


def test_a_second_archive_behind_the_end_is_told():
    first, second = made([("a.txt", b"1")]), made([("b.txt", b"2")])
    found = walked(first + second)
    assert found.names == ["a.txt"]
    assert found.skipped == {"after the end": 1}
    assert "after the end" not in walked(first).skipped


def test_a_hard_link_that_states_the_size_of_its_file_has_no_bytes():
    data = header(b"l", b"00000001000\0", b"1") + header(b"a.txt") + END
    assert members(walked(data)) == [("a.txt", 1024, 0)]


def test_checksums_of_signed_bytes_as_old_tools_wrote_them():
    plain = header("ä.txt".encode())
    rest = plain[:148] + b" " * 8 + plain[156:]
    signed = sum(struct.unpack("512b", rest))
    assert signed != sum(rest)
    data = plain[:148] + b"%06o\0 " % signed + plain[156:] + END
    assert walked(data).names == ["ä.txt"]


def test_names_that_are_no_utf8_stay_apart():
    data = header(b"caf\xe9.jpg") + header(b"caf\xe8.jpg") + END
    assert walked(data).names == ["caf\\xe9.jpg", "caf\\xe8.jpg"]


def test_gnu_headers_keep_other_things_where_posix_has_a_prefix():
    block = bytearray(header(b"a.txt", magic=b"ustar  \0"))
    block[345:357] = b"14000000000\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert walked(bytes(block) + END).names == ["a.txt"]


def test_a_file_that_shrinks_during_the_walk(tmp_path: Path):
    data = made([(f"{i}.bin", bytes(5000)) for i in range(40)])
    with pytest.raises(FormatError, match="ends inside a header"):
        walk(lambda start, end: data[: len(data) // 2][start:end], size=len(data), where="a.tar")
