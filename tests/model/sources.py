"""What tests of byte sources share: a file, ranges of it, and what every source must give."""

import numpy as np
import pytest
from tests.services.faulty_store import FaultyStore

from medloom.model.byte_source import ByteSource, open_source
from medloom.schemas.errors import WrongBytes
from medloom.schemas.store import Store

DATA = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()
RANGES = [(0, 1), (0, 0), (7, 7), (5, 4096), (4095, 200_001), (299_999, 300_000), (0, 300_000)]


def remote(served: FaultyStore, *, timeout_s: float = 20.0, attempts: int = 3, **more) -> ByteSource:
    return open_source(Store(served.url), timeout_s=timeout_s, attempts=attempts, **more)


def holds_all_ranges(source: ByteSource, path: str = "media/a.tar") -> None:
    """Hold every way of reading against the bytes that were written."""
    for start, end in RANGES:
        assert source.read(path, start, end) == DATA[start:end]
        out = bytearray(end - start)
        source.read_into(path, start, end, memoryview(out))
        assert out == DATA[start:end]
    assert source.read_many([(path, a, b) for a, b in RANGES]) == [DATA[a:b] for a, b in RANGES]
    assert source.read_many([]) == []
    with pytest.raises(WrongBytes, match="no range"):
        source.read(path, 5, 4)
    with pytest.raises(WrongBytes, match="no range"):
        source.read(path, -1, 4)
    with pytest.raises(ValueError, match="buffer of 3 bytes for 4"):
        source.read_into(path, 0, 4, memoryview(bytearray(3)))
