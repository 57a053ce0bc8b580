"""Inventories as a raw zone keeps them: which article versions a report held, and how two reports differ.

    RAW/inventory/<stamp>/bucket-00.parquet … bucket-63.parquet     rows of `VERSION`, by PMCID modulo 64
    RAW/inventory/<stamp>/whole.json                                written last; without it the report is taken again
    RAW/inventory/state.json                                        which reports were compared, and worked off

Reports are compared bucket by bucket, in Arrow: eight million versions cost the memory of some hundred thousand.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import IO

import filelock
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medloom.connectors.pmc_inventory import VERSION
from medloom.schemas.errors import RetryLater, SourceError
from medloom.schemas.keys import canonical_json
from medloom.schemas.store import Store

FOLDER = "inventory"
BUCKETS = 64
ROWS_HELD = 1 << 18  # before they are written to their buckets
KEYS = ["pmc", "version"]


@dataclass(frozen=True)
class State:
    """How far reports were used.

    Attributes:
        compared: stamp of the last report that tombstones were made from, "" for none.
        done: stamp of the last report of which every article was decided, "" for none.
        tiers: under which it was.
    """

    compared: str = ""
    done: str = ""
    tiers: tuple[str, ...] = ()


class Inventories:
    """The inventories of a raw zone."""

    def __init__(self, store: Store):
        self.store = store

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other run of this machine use the inventories meanwhile; clear what a killed one left.

        Raises:
            RetryLater: another run does.
        """
        if not self.store.is_local:  # an object store has no lock that dies with its holder
            yield
            return
        self.store.make_folder(FOLDER)
        lock = filelock.FileLock(self.store.local(f"{FOLDER}/.lock"), timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise RetryLater(f"another run brings {self.store.url} up to its inventory; let it end first") from None
        try:
            for stamp in self.store.folders(FOLDER):
                self.store.sweep(f"{FOLDER}/{stamp}")
            yield
        finally:
            lock.release()

    def state(self) -> State:
        """Return how far reports were used."""
        try:
            said = json.loads(self.store.read(f"{FOLDER}/state.json"))
        except FileNotFoundError:
            return State()
        except ValueError as fault:
            raise SourceError(f"{self.store.url}/{FOLDER}/state.json is damaged; delete it") from fault
        return State(said["compared"], said["done"], tuple(said["tiers"]))

    def mark(self, **changes: str | tuple[str, ...]) -> None:
        """Change the state, and delete the reports that it names no more."""
        now = replace(self.state(), **changes)  # type: ignore[arg-type]
        self.store.write(f"{FOLDER}/state.json", (canonical_json(asdict(now)) + "\n").encode())
        for stamp in self.store.folders(FOLDER):
            if stamp < now.compared and stamp != now.done:
                self.store.delete_folder(f"{FOLDER}/{stamp}")

    def holds(self, stamp: str) -> bool:
        """Whether a report is here, whole."""
        return self.store.exists(f"{FOLDER}/{stamp}/whole.json")

    def take(self, stamp: str, tables: Iterable[pa.Table]) -> int:
        """Keep the rows of a report, a bounded number at a time; return how many there are."""
        count = 0
        with ExitStack() as stack:
            files = [stack.enter_context(self.store.writing(_bucket(stamp, b))) for b in range(BUCKETS)]
            writers = [stack.enter_context(_writer(file)) for file in files]
            for table in _pieces(tables):
                count += table.num_rows
                numbers = pc.bit_wise_and(table["pmc"], BUCKETS - 1)
                for bucket, writer in enumerate(writers):
                    rows = table.filter(pc.equal(numbers, bucket))
                    if rows.num_rows:
                        writer.write_table(rows.combine_chunks())
        self.store.write(f"{FOLDER}/{stamp}/whole.json", (canonical_json({"rows": count}) + "\n").encode())
        return count

    def changed(self, stamp: str, since: str) -> Iterator[pa.Table]:
        """Give, bucket by bucket, all versions in report `stamp` of the articles that are not as in report `since`.

        Rows of `VERSION` in order: of articles with a version that is new, has another ETag, or is gone. All of them
        when `since` is "".
        """
        for bucket in range(BUCKETS):
            now = self._bucket(stamp, bucket)
            if since:
                before = self._bucket(since, bucket)
                keys = [*KEYS, "etag"]
                news, gone = (
                    now.join(before, keys, join_type="left anti"),
                    before.join(now, KEYS, join_type="left anti"),
                )
                touched = pa.concat_tables([news.select(["pmc"]), gone.select(["pmc"])])["pmc"]
                now = now.filter(pc.is_in(now["pmc"], touched.combine_chunks()))
            if now.num_rows:
                yield now.sort_by([(key, "ascending") for key in KEYS])

    def vanished(self, stamp: str, since: str) -> Iterator[pa.Table]:
        """Give, bucket by bucket, the versions of report `since` that report `stamp` does not hold.

        Rows of `VERSION`, and in `newest` the newest version of the article that `stamp` holds, null when it has none.
        """
        for bucket in range(BUCKETS):
            now = self._bucket(stamp, bucket)
            gone = self._bucket(since, bucket).join(now, KEYS, join_type="left anti")
            if gone.num_rows:
                newest = now.group_by("pmc").aggregate([("version", "max")]).rename_columns(["pmc", "newest"])
                yield gone.join(newest, "pmc", join_type="left outer").sort_by([(key, "ascending") for key in KEYS])

    def _bucket(self, stamp: str, bucket: int) -> pa.Table:
        return self.store.read_table(_bucket(stamp, bucket)).select(VERSION.names).cast(VERSION)


def _bucket(stamp: str, bucket: int) -> str:
    return f"{FOLDER}/{stamp}/bucket-{bucket:02d}.parquet"


def _writer(file: IO[bytes]) -> pq.ParquetWriter:
    return pq.ParquetWriter(file, VERSION, compression="zstd")


def _pieces(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join small tables into pieces of about `ROWS_HELD` rows, so that buckets have few row groups."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(t.num_rows for t in held) >= ROWS_HELD:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)
