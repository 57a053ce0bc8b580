"""Header walk: where every member of a tar stands, by reading headers only; what a reader cannot trust is an error.

POSIX.1-1988 ustar, POSIX.1-2001 pax (extended and global), GNU long names and base-256 numbers, and V7. The loop does
no more than follow sizes; names, digits and checksums are verified thousands of headers at a time.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from medloom.schemas.errors import FormatError

BLOCK = 512
MAX_EXTENSION = 1 << 20  # bytes of a pax header or long name; real ones take some hundred
MAX_CHAIN = 8  # extension headers before one member; GNU tar and Python write three at most
_BATCH = 1024  # headers verified at once
_MOST = 16  # times `worth` are fetched at once at most
_MOST_DIGITS = 19  # of a size: 2**63 has as many
_NONE = -1
_ZERO = bytes(BLOCK)
_REGULAR, _V7, _CONTIGUOUS = b"0", b"\0", b"7"
_SKIPPED = {b"1": "link", b"2": "link", b"3": "device", b"4": "device", b"5": "directory", b"6": "device"}
_EXTENSIONS = b"xXgLK"
_OCTAL = re.compile(rb"[0-7]*")
_COMPRESSED = {
    b"\x1f\x8b": "gzip -d", b"\x28\xb5\x2f\xfd": "zstd -d", b"BZh": "bzip2 -d", b"\xfd7zXZ": "xz -d",
    b"\x04\x22\x4d\x18": "lz4 -d",
}  # fmt: skip
_CUT, _DAMAGED = "it was cut short: copy it again", "it was damaged: copy it again"
_ENDS = b"\0 "  # of a number
_SPREAD = np.uint64(0x00FF00FF00FF00FF)
_PLACES = 8 ** np.arange(5, -1, -1, dtype=np.int64)  # of the six octal digits of a checksum


@dataclass(frozen=True, eq=False)
class Walked:
    """Regular members of one tar, in its order.

    Attributes:
        names: as stored, folders kept; bytes that are not UTF-8 as `\\xe9`.
        offsets, sizes: int64, of the members' bytes.
        skipped: how many members hold no bytes of their own, by kind ("directory", "link", "sparse", "device",
            "other"); "after the end" is 1 when something follows the archive's end, which no reader of tars sees.
    """

    names: list[str]
    offsets: np.ndarray
    sizes: np.ndarray
    skipped: dict[str, int] = field(default_factory=dict)


def walk(read: Callable[[int, int], bytes], *, size: int, where: str, worth: int = 4096) -> Walked:
    """Return the regular members of a tar of `size` bytes.

    Args:
        read: returns the bytes [start, end) of it; asked for in ascending order.
        where: its name in errors.
        worth: how many bytes cost as much as one call of `read`: headers that stand closer are fetched together.

    Raises:
        FormatError: it is cut short, compressed, or no tar from some byte on; the byte is named.
    """
    walker = _Walker(read, size, where, worth)
    try:
        walker.follow()
    except FormatError:
        walker.verify()  # an earlier header that is wrong is the better explanation
        raise
    walker.verify()
    return Walked(
        walker.names,
        np.concatenate([np.zeros(0, np.int64), *walker.offsets]),
        np.concatenate([np.zeros(0, np.int64), *walker.sizes]),
        dict(sorted(walker.skipped.items())),
    )


@dataclass
class _Extension:
    """What extension headers say of the member after them."""

    path: bytes | None = None
    size: int | None = None
    sparse: bool = False


@dataclass
class _Walker:
    read: Callable[[int, int], bytes]
    size: int
    where: str
    worth: int
    names: list[str] = field(default_factory=list)
    offsets: list[np.ndarray] = field(default_factory=list)
    sizes: list[np.ndarray] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    _data: bytes = b""  # the window that was read last, from byte _base on
    _base: int = 0
    _ahead: int = 0
    _headers: list[bytes] = field(default_factory=list)  # not yet verified
    _starts: list[int] = field(default_factory=list)  # where those stand
    _lengths: list[int] = field(default_factory=list)  # of their members, _NONE where they are no regular ones
    _paths: dict[int, bytes] = field(default_factory=dict)  # place in _starts: name by an extension header

    @property
    def _least(self) -> int:
        """Bytes read at once: a header, a small member and the header behind it."""
        return max(self.worth // 2 & -BLOCK, BLOCK)

    def follow(self) -> None:
        """Go from header to header up to the end of the archive."""
        if not self.size:
            self._fail(0, "is empty", "copy it again")
        at, last, starts, lengths = 0, self.size - BLOCK, self._starts, self._lengths
        data, base, reach = b"", 0, -1  # the window, and how far into it a header may begin
        read, headers, least = self.read, self._headers, self._least
        while at <= last:
            here = at - base
            if here > reach:
                data = read(at, at + least) if here > reach + self.worth and len(starts) < _BATCH else b""
                if len(data) == least:  # what `_fetch` would do too where members are large, at half the cost
                    self._data, self._base, self._ahead = data, at, least
                else:
                    data = self._fetch(at)
                base, here, reach = at, 0, len(data) - BLOCK
            header = data[here : here + BLOCK]
            # Nearly all: a regular file whose size is eleven octal digits. int() also takes "0_7": see `verify`.
            if header[156] == 0x30 and header[124] == 0x30 and header[135] in _ENDS:
                try:
                    length = int(header[124:135], 8)
                except ValueError:
                    self._fail(at, "has a header without a size", _DAMAGED)
                headers.append(header)
                starts.append(at)
                lengths.append(length)
                at += length + 1023 & -512
            else:
                following = self._unusual(at)
                if following is None:
                    return
                at, data, base = following, self._data, self._base
                reach = len(data) - BLOCK
        if lengths and starts[-1] + BLOCK + lengths[-1] > self.size:
            self._fail(starts[-1], f"promises {lengths[-1]} bytes and the file ends before them", _CUT)
        self._fail(at, "has no end", f"{_CUT}, or if it is whole close it with `truncate -s +1024`")

    def _fetch(self, at: int) -> bytes:
        """Return the window that begins with the header at `at`: longer than the last if that just missed it."""
        ahead, end = self._least, self._base + len(self._data)
        if at - end < self.worth:
            ahead = max(ahead, min(2 * self._ahead, _MOST * self.worth))
        if len(self._starts) >= _BATCH:
            self.verify()
        data = self.read(at, min(self.size, at + ahead))
        if len(data) & 511:
            data = data[: len(data) & -BLOCK]
        if not data:
            self._fail(at, "ends inside a header", _CUT)
        self._base, self._data, self._ahead = at, data, ahead
        if at == 0:
            for magic, command in _COMPRESSED.items():
                if data.startswith(magic):
                    self._fail(0, "is compressed, and no member of it can be read alone", f"unpack it with `{command}`")
        return data

    def _header(self, at: int) -> bytes:
        """Return the block at `at`, from the window that holds it or the next."""
        if at > self.size - BLOCK:
            self._fail(at, "ends inside a header", _CUT)
        if at - self._base > len(self._data) - BLOCK:
            self._fetch(at)
        return self._data[at - self._base : at - self._base + BLOCK]

    def _bytes(self, at: int, length: int) -> bytes:
        here = at - self._base
        data = self._data[here : here + length] if 0 <= here <= len(self._data) - length else self.read(at, at + length)
        if len(data) != length:
            self._fail(at, f"promises {length} bytes and the file ends before them", _CUT)
        return data

    def _unusual(self, at: int) -> int | None:
        """Take the member at `at` with the extension headers before it; None at the end of the archive."""
        said, begin = _Extension(), at
        for _ in range(MAX_CHAIN):
            header = self._header(at)
            if header == _ZERO:
                if at != begin:
                    self._fail(begin, "has an extension header that no member follows", _CUT)
                self._look_behind(at)
                return None
            kind, length = header[156:157], self._number(header[124:136], at)
            self._headers.append(header)
            self._starts.append(at)
            self._lengths.append(_NONE)
            if kind not in _EXTENSIONS:
                return self._member(header, kind, length if said.size is None else said.size, at, said)
            self._extend(said, kind, at + BLOCK, length)
            at += BLOCK + (length + BLOCK - 1 & -BLOCK)
        self._fail(begin, f"has more than {MAX_CHAIN} extension headers before one member", _CUT)

    def _member(self, header: bytes, kind: bytes, length: int, at: int, said: _Extension) -> int:
        """Take or count one member and return where the next header is."""
        data = at + BLOCK
        is_folder = kind == _V7 and (said.path or header[:100].split(b"\0")[0]).endswith(b"/")
        if kind in (_REGULAR, _V7, _CONTIGUOUS) and not said.sparse and not is_folder:
            if said.path is not None:
                self._paths[len(self._starts) - 1] = said.path
            self._lengths[-1] = length
            if data + length > self.size:
                self._fail(at, f"promises {length} bytes and the file ends before them", _CUT)
            return data + (length + BLOCK - 1 & -BLOCK)
        what = "directory" if is_folder else _SKIPPED.get(kind, "sparse" if said.sparse or kind == b"S" else "other")
        self.skipped[what] += 1
        if kind == b"1":
            length = 0  # tools that write the size of the file it links to write no bytes
        elif length and what in ("link", "device", "directory"):
            self._fail(at, f"gives a {what} {length} bytes, which some readers skip and others do not", "make it again")
        if kind == b"S":
            data = self._behind_sparse_map(header, data)
        if data + length > self.size:
            self._fail(at, f"promises {length} bytes and the file ends before them", _CUT)
        return data + (length + BLOCK - 1 & -BLOCK)

    def _behind_sparse_map(self, header: bytes, data: int) -> int:
        """Return where the bytes of an old GNU sparse file begin: behind the blocks that go on with its map."""
        more = header[482]
        while more:
            more = self._header(data)[504]
            data += BLOCK
        return data

    def _extend(self, said: _Extension, kind: bytes, at: int, length: int) -> None:
        if length > MAX_EXTENSION:
            self._fail(at - BLOCK, f"has an extension header of {length} bytes", "it is no tar of data: make it again")
        data = self._bytes(at, length)
        if kind == b"L":
            said.path = data.split(b"\0")[0]
        elif kind != b"K":
            records = self._records(data, at)
            if kind == b"g" and records.keys() & {b"path", b"size"}:
                self._fail(at - BLOCK, "gives all its members one name or size", "make it again")
            said.path = records.get(b"path", said.path)
            said.sparse |= any(name.startswith(b"GNU.sparse.") for name in records)
            if b"size" in records:
                if not records[b"size"].isdigit() or len(records[b"size"]) > _MOST_DIGITS:
                    self._fail(at - BLOCK, f"has a size of {records[b'size'][:40]!r}", "make it again")
                said.size = int(records[b"size"])

    def _records(self, data: bytes, at: int) -> dict[bytes, bytes]:
        """Return the records "length name=value\\n" of a pax header (POSIX.1-2001, pax, Extended Header)."""
        found, here, end = dict[bytes, bytes](), 0, len(data.rstrip(b"\0"))
        while here < end:
            digits = data[here : data.find(b" ", here, here + 9)]
            after = here + int(digits) if digits.isdigit() and digits[0] != 0x30 else here
            name, equals, value = data[here + len(digits) + 1 : after].partition(b"=")
            if not (here < after <= end and equals and name and value.endswith(b"\n")):
                self._fail(at + here, "has a pax record that is none", _DAMAGED)
            found[name] = value[:-1]
            here = after
        return found

    def _number(self, digits: bytes, at: int) -> int:
        """Return a size: octal digits, or base 256 behind a byte of 0x80 (GNU, star)."""
        if digits[0] == 0x80:
            return int.from_bytes(digits[1:], "big")
        text = digits[:11] if digits[:11].isdigit() and digits[11] in _ENDS else digits.split(b"\0")[0].strip(b" ")
        if not _OCTAL.fullmatch(text):
            self._fail(at, f"has a header whose size is {digits!r}", "it is no tar from there on: copy it again")
        return int(text or b"0", 8)

    def _look_behind(self, at: int) -> None:
        """Count what follows the end of the archive, such as a second archive: no reader of tars sees it."""
        rest = self._bytes(at, min(self.size - at, 64 << 10))
        if rest.strip(b"\0"):
            self.skipped["after the end"] = 1

    def verify(self) -> None:
        """Check the headers read since the last time, and name their members."""
        if not self._starts:
            return
        starts, lengths = np.asarray(self._starts), np.asarray(self._lengths)
        headers = np.frombuffer(b"".join(self._headers), np.uint8).reshape(-1, BLOCK)
        for number in np.flatnonzero(~_sums_agree(headers)):
            if not _sum_agrees(headers[number].tobytes()):
                self._fail(int(starts[number]), "has a header that fails its checksum", _DAMAGED)
        for number in np.flatnonzero((headers[:, 124:135] == 0x5F).any(axis=1)):
            self._number(headers[number, 124:136].tobytes(), int(starts[number]))
        regular = np.flatnonzero(lengths != _NONE)
        self.offsets.append(starts[regular] + BLOCK)
        self.sizes.append(lengths[regular])
        self._name(headers, regular)
        for done in (self._headers, self._starts, self._lengths, self._paths):
            done.clear()

    def _name(self, headers: np.ndarray, regular: np.ndarray) -> None:
        names: list[bytes] = np.ascontiguousarray(headers[:, :100]).view("S100").ravel().tolist()
        # The prefix is POSIX's; GNU's magic is "ustar  " and keeps times and sparse maps at its place.
        is_posix = np.ascontiguousarray(headers[:, 257:262]).view("S5").ravel() == b"ustar"
        for number in np.flatnonzero((headers[:, 345] != 0) & is_posix & (headers[:, 262] == 0)):
            prefix = headers[number, 345:500].tobytes().split(b"\0")[0]
            names[number] = prefix + b"/" + names[number].split(b"\0")[0]
        for place, path in self._paths.items():
            names[place] = path
        if len(regular) < len(names):
            names = [names[number] for number in regular]
        joint = b"\n".join(names)
        if b"\0" in joint or joint.count(b"\n") >= len(names):  # what follows a NUL is none of a name
            self.names += [name.split(b"\0")[0].decode("utf-8", "backslashreplace") for name in names]
        elif names:
            self.names += joint.decode("utf-8", "backslashreplace").split("\n")

    def _fail(self, at: int, found: str, mend: str) -> NoReturn:
        raise FormatError(f"cannot read {self.where} at byte {at}: it {found}; {mend}")


def _sums_agree(headers: np.ndarray) -> np.ndarray:
    """Whether each header's bytes, those of the checksum counted as spaces, add up to it; six digits expected."""
    words = headers.view(np.uint64)
    lanes = (words & _SPREAD).sum(axis=1) + ((words >> np.uint64(8)) & _SPREAD).sum(axis=1)  # 16 bits each, no carry
    total = (lanes & np.uint64(0xFFFF)) + (lanes >> np.uint64(16) & np.uint64(0xFFFF))
    total += (lanes >> np.uint64(32) & np.uint64(0xFFFF)) + (lanes >> np.uint64(48))
    stored = headers[:, 148:156]
    digits = stored[:, :6].astype(np.int64) - 0x30
    proper = ((digits >= 0) & (digits < 8)).all(axis=1)
    agreed: np.ndarray = proper & (digits @ _PLACES == total.astype(np.int64) - stored.sum(axis=1) + 8 * 0x20)
    return agreed


def _sum_agrees(header: bytes) -> bool:
    """Whether a header adds up to its checksum however that is written; some old tools added signed bytes."""
    text = header[148:156].strip(b" \0")
    if not text or not _OCTAL.fullmatch(text):
        return False
    rest = header[:148] + b" " * 8 + header[156:]
    signed = sum(byte - 256 if byte > 127 else byte for byte in rest)
    return int(text, 8) in (sum(rest), signed)
