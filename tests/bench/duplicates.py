"""Speed and recall of near-duplicates: ms per picture hashed, seconds per million hashes linked, beside brute force.

`python -m tests.bench.duplicates [--json FILE] [--hashes N]` makes N perceptual hashes as pictures have them (signs
that hang together; a tenth are copies with up to 9 % of their signs changed, mirrored or inverted; a thousand are
nearly blank, in one crowd), links them in Spark on two cores, and compares the links of a sample with those of
comparing every pair.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from medloom.pipelines.release.links import Clusters, links, picture_nodes
from medloom.pipelines.spark import session
from medloom.quality import phash

BRUTE_PAIRS = 5_000_000  # compared one by one: a sample of hashes with all others


def hashes(n: int, seed: int) -> np.ndarray:
    """Return n hashes, uint8 (n, `phash.HASH_BYTES`): nine in ten of their own, then copies, then a crowd."""
    draw = np.random.default_rng(seed)
    copies, crowd = n // 10, min(1000, n // 20)
    own = n - copies - crowd
    # Low coefficients of real pictures lean to one side together: two factors, stronger at low frequency.
    k = np.arange(phash.ORDER)
    lean = 1.5 / (1 + np.add.outer(k, k))
    values = draw.normal(size=(own, 2)) @ (draw.normal(size=(2, phash.ORDER**2)) * lean.ravel())
    values += draw.normal(size=values.shape)
    bits = values.reshape(own, phash.ORDER, phash.ORDER) > 0
    odd = np.arange(phash.ORDER) % 2 == 1
    other = bits[draw.integers(0, own, copies)].copy()
    other ^= draw.random((copies, 1, 1)) < 0.5
    other ^= (draw.random((copies, 1, 1)) < 0.5) & odd
    other ^= draw.random(other.shape) < draw.uniform(0, 0.09, (copies, 1, 1))
    blank = np.repeat(bits[:1], crowd, axis=0) ^ (draw.random((crowd, phash.ORDER, phash.ORDER)) < 0.01)
    every = np.concatenate([bits, other, blank])
    every[:, 0, 0] = False
    return np.packbits(np.stack([phash._by_class(one) for one in every]), axis=1)


def linked(found: np.ndarray) -> tuple[Clusters, dict[str, float]]:
    """Return the clusters of `found` and the seconds that Spark and the driver took."""
    spark = session("local[2]", name="bench")
    spark.range(10).count()
    names = [row.tobytes().hex() for row in found]
    started = time.perf_counter()
    made = links(picture_nodes(spark.createDataFrame(pa.table({"phash": names})))).toArrow()
    in_spark = time.perf_counter() - started
    clusters = Clusters()
    crowded = 0
    for one, other in zip(made["one"].to_pylist(), made["other"].to_pylist(), strict=True):
        if other is None:
            crowded += 1
        else:
            clusters.join(one, other)
    return clusters, {"spark_s": in_spark, "driver_s": time.perf_counter() - started - in_spark, "crowded": crowded}


def brute(found: np.ndarray, sample: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs of `sample` with all of `found` that are near, by comparing each with each."""
    pairs = []
    for i in sample:
        near = phash.distances(np.broadcast_to(found[i], found.shape), found) <= phash.MAX_DISTANCE
        pairs += [(int(i), int(j)) for j in np.flatnonzero(near) if j != i]
    return pairs


def ms_per_picture() -> float:
    """Return the processor time of hashing one picture of 1,000 × 750 pixels in colour."""
    draw = np.random.default_rng(0)
    rough = draw.integers(0, 256, (38, 50, 3), dtype=np.uint8)
    pixels = np.repeat(np.repeat(rough, 20, axis=0), 20, axis=1)[:750]
    started = time.process_time()
    for _ in range(20):
        phash.picture_phash(pixels)
    return 50 * (time.process_time() - started)


def rows_of(n: int) -> list[dict[str, Any]]:
    """Return a row per measure."""
    found = hashes(n, seed=1)
    clusters, took = linked(found)
    copies = np.arange(n - n // 10, n) - min(1000, n // 20)  # where `hashes` puts them: each has a pair to be found
    sample = np.random.default_rng(2).choice(copies, max(1, min(len(copies), BRUTE_PAIRS // n)), replace=False)
    started = time.perf_counter()
    pairs = brute(found, sample)
    brute_s = (time.perf_counter() - started) * n / 2 / len(sample)
    names = [found[i].tobytes().hex() for i in range(n)]
    hit = sum(clusters.root(names[i]) == clusters.root(names[j]) for i, j in pairs)
    million = 1e6 / n
    return [
        {"name": "hash of a picture of 1000 x 750", "unit": "ms", "median": round(ms_per_picture(), 2)},
        {"name": f"links of {n:,} hashes, Spark on two cores", "unit": "s", "median": round(took["spark_s"], 1)},
        {"name": "the same per million", "unit": "s", "median": round(took["spark_s"] * million, 1)},
        {"name": "clusters in the driver, per million", "unit": "s", "median": round(took["driver_s"] * million, 1)},
        {"name": "every pair on one core, extrapolated", "unit": "s", "median": round(brute_s, 1)},
        {"name": f"pairs of the sample in one cluster, of {len(pairs):,}", "unit": "share",
         "median": round(hit / max(1, len(pairs)), 4)},
        {"name": "crowded bands", "unit": "count", "median": int(took["crowded"])},
    ]  # fmt: skip


def main() -> None:
    """Print the table, and keep it with `--json FILE`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--hashes", type=int, default=200_000)
    options = parser.parse_args()
    rows = rows_of(options.hashes)
    for row in rows:
        print(f"{row['name']:56} {row['median']:>12} {row['unit']}")
    if options.json:
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
