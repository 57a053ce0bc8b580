"""What the streaming bench asks of whom: its sections, each with ours, the limit, the peers, and what is counted."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.bench.stream_data import BIG, Size
from tests.bench.stream_run import OURS, PEERS

Answer = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One thing to time.

    Attributes:
        name: in the table.
        who: `OURS`, or the peer whose process does it.
        ask: the request.
        role: "ours", "limit", "peer", or "" for what stands beside without being compared.
    """

    name: str
    who: str
    ask: dict[str, Any]
    role: str


@dataclass(frozen=True)
class Section:
    """Jobs that are compared with each other.

    Attributes:
        title: of the table.
        unit: of the values.
        value: from an answer to what the table shows.
        more_is_better: a rate, and not a time.
        jobs: in the order in which they are asked, each round.
        extra: from an answer to further columns.
    """

    title: str
    unit: str
    value: Callable[[Answer], float]
    more_is_better: bool
    jobs: tuple[Job, ...]
    extra: Callable[[Answer], dict[str, Any]] = field(default=lambda answer: {})


def per_core(answer: Answer) -> float:
    """Samples a second of processor time."""
    return float(answer["samples"] / answer["cpu"])


def per_second(answer: Answer) -> float:
    """Samples a second by the clock on the wall."""
    return float(answer["samples"] / answer["wall"])


def cpu_ms(answer: Answer) -> float:
    """Milliseconds of processor time."""
    return float(1000 * answer["cpu"])


def wall_ms(answer: Answer) -> float:
    """Milliseconds by the clock on the wall."""
    return float(1000 * answer["wall"])


def raw_gb(answer: Answer) -> float:
    """GB of arrays a second of processor time."""
    return float(answer["bytes"] / answer["cpu"] / 1e9)


def _ours(name: str, role: str = "ours", **ask: Any) -> Job:
    return Job(name, OURS, ask, role)


def _peer(peer: str, form: str, *, epochs: int, workers: int = 0, role: str = "peer") -> Job:
    name = f"{peer} {form}" + (f", {workers} processes" if workers else "")
    return Job(name, peer, {"job": "read", "peer": peer, "form": form, "epochs": epochs, "workers": workers}, role)


def sections(size: Size) -> list[Section]:
    """Return all sections of the bench."""
    return [
        _compressed(), _two_workers(), _raw(), _pictures(), *_patches(size), _shared(size), *_resume(), _walk(),
        _write(size),
    ]  # fmt: skip


def _compressed() -> Section:
    first = Job("mosaic zstd, first epoch (unpacks)", "mosaic", {"job": "mosaic_first_epoch"}, "peer")
    return Section(
        "compressed volumes, one process", "volumes/s/core", per_core, True,
        (
            _ours("ShardStream b2nd", job="read", form="b2nd", epochs=3, workers=0),
            _ours("codec alone: frame[...]", "limit", job="codec", form="b2nd", epochs=3),
            *(_peer(peer, "b2nd", epochs=3) for peer in PEERS),
            _peer("webdataset", "nii.gz", epochs=1), _peer("webdataset", "npy.zst", epochs=2),
            _peer("litdata", "zstd", epochs=2), first,
        ),
    )  # fmt: skip


def _two_workers() -> Section:
    return Section(
        "compressed volumes, two workers", "volumes/s (wall)", per_second, True,
        (
            _ours("ShardStream b2nd, 2 threads", job="read", form="b2nd", epochs=4, workers=2),
            *(_peer(peer, "b2nd", epochs=4, workers=2) for peer in PEERS),
            _peer("webdataset", "nii.gz", epochs=1, workers=2),
        ),
        lambda answer: {"cpu_ms_each": round(cpu_ms(answer) / answer["samples"], 2)},
    )  # fmt: skip


def _raw() -> Section:
    return Section(
        "raw volumes, one process", "volumes/s/core", per_core, True,
        (
            _ours("ShardStream npy", job="read", form="npy", epochs=6, workers=0),
            _ours("preadv + frombuffer, one buffer", "limit", job="limit", epochs=6),
            _peer("webdataset", "npy", epochs=4), _peer("webdataset", "npy stock", epochs=3),
            _peer("mosaic", "raw", epochs=4), _peer("litdata", "raw", epochs=4), _peer("energon", "npy", epochs=4),
            _peer("datasets", "npy", epochs=3),
        ),
    )  # fmt: skip


def _pictures() -> Section:
    return Section(
        "JPEG, one process", "pictures/s/core", per_core, True,
        (
            _ours("ShardStream jpg", job="read", form="jpg", epochs=2, workers=0),
            _ours("codec alone: libjpeg-turbo", "limit", job="codec", form="jpg", epochs=2),
            _peer("webdataset", "jpg stock", epochs=1), _peer("mosaic", "jpg", epochs=1),
            _peer("litdata", "jpg", epochs=1), _peer("energon", "jpg", epochs=1), _peer("datasets", "jpg", epochs=1),
        ),
    )  # fmt: skip


def _patches(size: Size) -> list[Section]:
    found = []
    for number, chunks in enumerate(("isotropic volume (chunks 64 x 64 x 64)", "thick slices (chunks 32 x 128 x 128)")):
        cut = {"job": "patches_nii_gz", "number": number, "size": size.patch, "many": 4}
        found.append(Section(
            f"patches of {'x'.join(map(str, size.patch))}: {chunks}", "patches/s/core", per_core, True,
            (
                _ours("ShardStream roi", job="patches", task=BIG[number], size=size.patch, epochs=2),
                _ours("nii.gz by nibabel dataobj[...]", "peer", **cut, how="nibabel"),
                _ours("nii.gz inflated at once", "peer", **cut, how="whole"),
            ),
            lambda answer: {"fetched_mb_each": round(answer["fetched"] / answer["samples"] / 1e6, 2)},
        ))  # fmt: skip
    return found


def _shared(size: Size) -> Section:
    from tests.bench.stream_data import QUESTIONS

    many, few = size.shared * QUESTIONS, size.shared
    return Section(
        "examples that share volumes", "ms/step of processor time", lambda answer: cpu_ms(answer) / 4, False,
        (
            _ours(f"{many} examples of {few} volumes", job="shared", task="header_vqa", batch=many, epochs=4),
            _ours(f"{few} examples of {few} volumes", "limit", job="shared", task="interleaved", batch=few, epochs=4),
        ),
    )  # fmt: skip


POSITIONS = (0, 10**3, 10**6, 10**9)


def _resume() -> list[Section]:
    ours = tuple(
        _ours(f"ShardStream at draw {t:,}", "ours" if t == POSITIONS[-1] else "", job="resume", t=t) for t in POSITIONS
    )
    peers = tuple(Job(f"{peer} at half an epoch", peer, {"job": "resume", "peer": peer}, "peer") for peer in PEERS)
    orders = tuple(
        _ours(f"draw {at:,} on", "ours" if at else "", job="order", n=10**9, at=at, count=256)
        for at in (0, 10**9 - 256)
    )
    return [
        Section(
            "first batch after a resume", "ms (wall)", wall_ms, False, (*ours, *peers),
            lambda answer: {"state_bytes": answer["state_bytes"]} if "state_bytes" in answer else {},
        ),
        Section("which 256 of 10^9 rows a step takes", "ms (wall)", wall_ms, False, orders),
    ]  # fmt: skip


def _walk() -> Section:
    return Section(
        "walk over a tar's headers", "members/s/core", per_core, True,
        (_ours("medloom index", job="walk", how="ours"), _ours("tarfile", "peer", job="walk", how="tarfile")),
    )  # fmt: skip


def _write(size: Size) -> Section:
    few = size.volumes <= 8
    names = {
        "ours": ("encode + ShardWriter", 12), "npy": ("tar of npy", 12), "npy.zst": ("tar of npy.zst", 6),
        "nii.gz": ("tar of nii.gz", 3),
    }  # fmt: skip
    roles = {"ours": "ours", "npy": "limit"}
    return Section(
        "write volumes, one process", "GB/s/core of voxels", raw_gb, True,
        tuple(
            _ours(name, roles.get(how, "peer"), job="write", how=how, shape=size.shape, many=2 if few else many)
            for how, (name, many) in names.items()
        ),
        lambda answer: {"ratio": round(answer["bytes"] / answer["stored"], 2)},
    )  # fmt: skip
