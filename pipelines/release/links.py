"""Links between near-duplicates, in Spark: what shares a band is compared, what is near enough is one cluster.

Nothing here is quadratic. Equal hashes are one node, and within a band a node is compared with the `WINDOW` that follow
it in the order of their names: a crowd of nearly blank pictures or of one boilerplate text costs as much as its size,
and is told. What a task links it gives on as a forest, of fewer edges than it saw nodes; the driver joins the forests.

The name of a node is a perceptual hash, or the kind and digest of a text ("caption:9f86d081…").
"""

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from medloom.quality import phash

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)

WINDOW = 64
NODE = pa.schema([("node", pa.string()), ("bands", pa.list_(pa.int64()))])
LINK = pa.schema([("one", pa.string()), ("other", pa.string())])  # no other: the band of this node is crowded
CLUSTER = pa.schema([("node", pa.string()), ("cluster", pa.string())])
Pairs = tuple[list[str], list[str | None]]


def picture_nodes(media: "DataFrame") -> "DataFrame":
    """Return rows of `NODE`: the distinct perceptual hashes of `media`."""
    from pyspark.sql import functions as sf
    from pyspark.sql.pandas.types import from_arrow_schema

    hashes = media.where("phash <> ''").select(sf.col("phash").alias("node")).distinct()
    return hashes.mapInArrow(_picture_bands, from_arrow_schema(NODE))


def _picture_bands(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        keys = phash.band_keys(phash.to_bytes(batch["node"].to_pylist()))
        yield pa.record_batch([batch["node"], band_lists(keys)], schema=NODE)


def band_lists(keys: np.ndarray) -> pa.ListArray:
    """Return keys (n, bands) as a column of lists."""
    offsets = np.arange(0, keys.size + 1, keys.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(keys.ravel(), pa.int64()))


def links(nodes: "DataFrame") -> "DataFrame":
    """Return rows of `LINK` between `nodes`: pictures that show the same thing, and texts that may say the same."""
    from pyspark.sql import Window
    from pyspark.sql import functions as sf
    from pyspark.sql.pandas.types import from_arrow_schema

    # Rows of (band, 8 bytes) are sorted, not of the hashes themselves; two nodes of one id only cost a comparison.
    named = nodes.select(sf.xxhash64("node").alias("id"), "node", "bands")
    rows = named.select("id", sf.explode("bands").alias("band"))
    shared = rows.withColumn("n", sf.count("id").over(Window.partitionBy("band"))).where("n > 1")
    found = shared.join(named.select("id", "node"), "id").repartition("band").sortWithinPartitions("band", "node")
    compared = found.select("band", "node", "n").mapInArrow(_compared, from_arrow_schema(LINK))
    return compared.distinct()


def _compared(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Give rows of `LINK` of one task's rows (band, node, n), which come in the order of band and node."""
    clusters = Clusters()
    for one, other in _neighbours(batches):
        near = _same(one, other)
        kept = [(a, b) for a, b, yes in zip(one, other, near, strict=True) if yes and (b is None or ":" in a
                or clusters.join(a, b))]  # fmt: skip
        if kept:
            yield pa.record_batch([pa.array(side, pa.string()) for side in zip(*kept, strict=True)], schema=LINK)


def _neighbours(batches: Iterable[pa.RecordBatch]) -> Iterator[Pairs]:
    """Give the pairs of one band that are at most `WINDOW` apart, and of each crowded band its first without other."""
    bands, nodes = np.empty(0, np.int64), np.empty(0, object)
    for batch in batches:
        have = len(nodes)
        bands = np.concatenate([bands, batch["band"].to_numpy()])
        nodes = np.concatenate([nodes, np.array(batch["node"].to_pylist(), object)])
        first = np.flatnonzero(np.concatenate([[True], bands[1:] != bands[:-1]]))
        first = first[first >= have]
        crowded = nodes[first[batch["n"].to_numpy()[first - have] > WINDOW + 1]]
        yield list(crowded), [None] * len(crowded)
        for apart in range(1, min(WINDOW + 1, len(bands))):
            one = np.flatnonzero(bands[apart:] == bands[:-apart])
            if not len(one):
                break
            one = one[one + apart >= have]
            yield list(nodes[one]), list(nodes[one + apart])
        bands, nodes = bands[-WINDOW:], nodes[-WINDOW:]


def _same(one: list[str], other: list[str | None]) -> np.ndarray:
    """Return which pairs are to be kept: pictures that are near, texts of one kind, and what has no other."""
    kind = [(a.partition(":")[0] if ":" in a else "", b and (b.partition(":")[0] if ":" in b else ""))
            for a, b in zip(one, other, strict=True)]  # fmt: skip
    near = np.array([b is None or a == b != "" for a, b in kind], bool)
    pictures = [i for i, (a, b) in enumerate(kind) if a == b == "" and one[i] != other[i]]
    if pictures:
        pairs = [phash.to_bytes([str(side[i]) for i in pictures]) for side in (one, other)]
        near[pictures] = phash.distances(*pairs) <= phash.MAX_DISTANCE
    return near


class Clusters:
    """Union-find over names: what is linked, directly or through others, is one cluster, named by its least member."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def root(self, name: str) -> str:
        """Return the name of the cluster of `name`."""
        above = self._above
        top = name
        while (up := above.get(top, top)) != top:
            top = up
        while name != top:  # the next look is short
            above[name], name = top, above.get(name, name)
        return top

    def join(self, one: str, other: str) -> bool:
        """Make two clusters one; whether they were apart."""
        a, b = sorted((self.root(one), self.root(other)))
        self._above.setdefault(a, a)
        self._above[b] = a
        return a != b

    def table(self) -> pa.Table:
        """Rows of `CLUSTER`, sorted by node: every node that is linked to another."""
        nodes = sorted(self._above)
        return pa.table([pa.array(nodes, pa.string()), pa.array(list(map(self.root, nodes)), pa.string())], CLUSTER)
