"""What one example costs to read: by arithmetic of volumes and patches, or by a release's own index."""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from medloom.model.media_reader import CONTENT, REMOTE_GAP, TEXT
from medloom.model.remote_source import PIECE
from medloom.schemas.errors import ConfigError
from medloom.schemas.medium import LAYOUTS
from medloom.schemas.release import Release
from medloom.schemas.release_index import ReleaseIndex

DECODE_BYTES_PER_S = 1.55e9  # of one core, b2nd bytedelta + zstd 1, median of four native CT series
RATIO = 3.29  # of the same, raw bytes against stored ones
JPEG_RATIO = 13.8  # 512 x 512 photographs at quality 90, mean 57 kB


@dataclass(frozen=True)
class Cost:
    """What one example costs to read, on average.

    Attributes:
        requests: ranges asked of the store.
        fetched_bytes: that these bring.
        decoded_bytes: that the decoder writes; of a patch whole chunks, more than is kept.
        kept_bytes: that stay in the batch.
    """

    requests: float
    fetched_bytes: float
    decoded_bytes: float
    kept_bytes: float


def volume_cost(
    shape: tuple[int, ...],
    *,
    patch: tuple[int, ...] = (),
    chunk: tuple[int, ...] = (32, 128, 128),
    itemsize: int = 2,
    ratio: float = RATIO,
) -> Cost:
    """Return what one volume costs: whole, or a patch of it at a place drawn evenly, the json member included.

    Chunks lie one behind the other with the last axis fastest, so that those of a patch that are neighbours come with
    one request, and the json member, which lies before the first chunk, with that one if it is wanted. A whole volume
    is one request up to `remote_source.PIECE` bytes.

    Args:
        shape, patch, chunk: (Z, Y, X); a patch is clipped to the volume, () is the whole.
        itemsize: bytes of a voxel.
        ratio: raw bytes against stored ones.

    Raises:
        ConfigError: they are not three positive numbers each.
    """
    for name, axes in (("shape", shape), ("chunk", chunk), ("patch", patch or shape)):
        if len(axes) != 3 or min(axes) < 1:
            raise ConfigError(f"{name} {axes} is not (Z, Y, X) with extents from 1")
    raw = math.prod(shape) * itemsize
    if not patch:
        return Cost(math.ceil(raw / ratio / PIECE), raw / ratio, raw, raw)
    size = tuple(map(min, patch, shape))
    z, y, x = (_touched(*axis) for axis in zip(shape, size, chunk, strict=True))
    kept = math.prod(size) * itemsize
    decoded = z.voxels * y.voxels * x.voxels * itemsize
    runs = z.chunks * y.chunks * (1 - x.all) + (z.chunks * (1 - y.all) + y.all) * x.all
    return Cost(runs + 1 - z.first * y.first * x.first, decoded / ratio, decoded, kept)


@dataclass(frozen=True)
class _Touched:
    """Along one axis, over all places of a patch: mean numbers of chunks and of their voxels, how often all and the
    first one are touched.
    """

    chunks: float
    voxels: float
    all: float
    first: float


def _touched(extent: int, size: int, chunk: int) -> _Touched:
    starts = np.arange(extent - size + 1)
    first, last = starts // chunk, (starts + size - 1) // chunk
    ends = np.minimum((last + 1) * chunk, extent)
    every = (first == 0) & (ends == extent)
    return _Touched(
        chunks=float((last - first + 1).mean()),
        voxels=float((ends - first * chunk).mean()),
        all=float(every.mean()),
        first=float((first == 0).mean()),
    )


def picture_cost(stored_bytes: float) -> Cost:
    """Return what an example of pictures of so many stored bytes costs, going by photographs as JPEG of quality 90."""
    return Cost(1.0, stored_bytes, stored_bytes * JPEG_RATIO, stored_bytes * JPEG_RATIO)


def release_cost(release: Release, rows: np.ndarray, *, together: int = 1) -> Cost:
    """Return what one of `rows` costs when `together` of them, drawn by chance, are read at once from a remote store.

    Whole media are read. A medium that several of the examples hold is read once, and media that are near each other
    in their tar come with one request.

    Args:
        release: has an index of its own (`schemas.release_index.has_index`).
        rows: numbers of its rows.
        together: examples that a rank reads at once, its share of a step.
    """
    requests = fetched = decoded = 0.0
    each = min(together, len(rows))
    for (split, layout), holders in _media_of(release.rows.take(rows)).items():
        at = np.array(sorted(holders), np.int64)
        media = _extents(ReleaseIndex(release, split, layout), at, layout)
        near, joined = _held(media, [holders[place] for place in at.tolist()])
        wanted = 1 - _absent(np.array([len(holders[place]) for place in at.tolist()]), len(rows), each)
        requests += float(wanted @ ((media.end - media.start - 1) // PIECE))
        requests += float((_absent(near, len(rows), each) - _absent(joined, len(rows), each)).sum())
        fetched += float(wanted @ (media.end - media.start))
        decoded += float(wanted @ media.decoded)
    return Cost(requests / each, fetched / each, decoded / each, decoded / each)


@dataclass(frozen=True, eq=False)
class _Extents:
    """Of media in the order of their tars: which tar, where what is read of it starts and ends, decoded bytes."""

    tar: np.ndarray
    start: np.ndarray
    end: np.ndarray
    decoded: np.ndarray


def _media_of(table: pa.Table) -> dict[tuple[str, str], dict[int, list[int]]]:
    """By split and layout, and by where in the index of these a medium stands: which rows hold it."""
    found: dict[tuple[str, str], dict[int, list[int]]] = {}
    columns = (table[name].to_pylist() for name in ("split", "layouts", "media_at"))
    for row, (split, layouts, places) in enumerate(zip(*columns, strict=True)):
        for layout, at in set(zip(layouts, places, strict=True)):
            found.setdefault((split, layout), {}).setdefault(at, []).append(row)
    return found


def _extents(index: ReleaseIndex, at: np.ndarray, layout: str) -> _Extents:
    first = LAYOUTS[layout].index(TEXT) + at
    last = LAYOUTS[layout].index(CONTENT[layout]) + at
    build, shard, offset, size = (index.column(name).to_numpy() for name in ("build", "shard", "offset", "size"))
    shapes, dtypes = (index.column(name).take(last).to_pylist() for name in ("shape", "dtype"))
    decoded = [math.prod(s) * np.dtype(d).itemsize for s, d in zip(shapes, dtypes, strict=True)]
    tar = build[first].astype(np.int64) << 32 | shard[first]
    return _Extents(tar, offset[first], offset[last] + size[last], np.array(decoded, float))


def _absent(held_by: np.ndarray, of: int, drawn: int) -> np.ndarray:
    """Chance that none of `drawn` examples out of `of`, each drawn at most once, is one of those that hold a medium."""
    with np.errstate(divide="ignore"):  # of log 0: one of them must be drawn
        shares = (np.log1p(-np.minimum(held_by / (of - i), 1)) for i in range(drawn))
        return np.exp(sum(shares, np.zeros(len(held_by))))


def _held(media: _Extents, holders: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """By how many examples at least one of the media near before a medium is held, and one of these or it itself.

    A request begins with a medium that is drawn when none of those is.
    """
    far = media.tar * (int(media.end.max()) + REMOTE_GAP + 1)  # so that media of two tars are never near
    first = np.searchsorted(far + media.end + REMOTE_GAP, far + media.start)
    window, oldest = Counter[int](), 0
    near, joined = np.zeros(len(holders), np.int64), np.zeros(len(holders), np.int64)
    for i, mine in enumerate(holders):
        while oldest < first[i]:
            window.subtract(holders[oldest])
            window -= Counter()  # drops those that fell to 0
            oldest += 1
        near[i] = len(window)
        window.update(mine)
        joined[i] = len(window)
    return near, joined
