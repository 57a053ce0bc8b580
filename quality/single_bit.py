"""Single bit: which one bit of some bytes was flipped, told from their CRC-32C alone.

A CRC is linear: two messages that differ in one bit have checksums that differ by a value which only the place of the
bit decides. That value is `P` stepped on once for each bit behind it, so that the place is a discrete logarithm, found
by baby steps and giant steps.
"""

from collections.abc import Iterator

P = 0x82F63B78  # the Castagnoli polynomial, bits reflected (RFC 3720, appendix B.4)
_BABY = 1 << 14
_TOP = 1 << 31


def flipped_bits(difference: int, size: int) -> Iterator[tuple[int, int]]:
    """Give (byte, mask) of each bit of `size` bytes that, flipped, changes their CRC-32C by xor of `difference`.

    Up to 256 MiB there is at most one; a checksum of another kind must confirm it, since more damage than one bit may
    look like it.
    """
    steps: dict[int, int] = {}
    value = P
    for behind in range(_BABY):
        steps.setdefault(value, behind)
        value = (value >> 1) ^ (P if value & 1 else 0)
    back = _matrix_back(_BABY)
    seen, bits = difference, 8 * size
    for start in range(0, bits, _BABY):
        behind = steps.get(seen, bits) + start
        if behind < bits:
            byte, bit = divmod(bits - 1 - behind, 8)
            yield byte, 1 << bit
        seen = _times(back, seen)


def _matrix_back(steps: int) -> list[int]:
    """Return what `steps` (a power of two) steps back make of each single bit."""
    columns = [((1 << i ^ P) << 1 & 0xFFFFFFFF | 1) if 1 << i & _TOP else 1 << (i + 1) for i in range(32)]
    while steps > 1:
        columns = [_times(columns, column) for column in columns]
        steps >>= 1
    return columns


def _times(columns: list[int], value: int) -> int:
    made = 0
    while value:
        low = value & -value
        made ^= columns[low.bit_length() - 1]
        value ^= low
    return made
