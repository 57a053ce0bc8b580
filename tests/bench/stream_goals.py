"""What the streaming bench aims at, and whether it was met."""

from typing import Any

Rows = list[dict[str, Any]]


def aims(rows: Rows) -> list[dict[str, Any]]:
    """Return {"name", "value", "sign", "goal", "verdict"} of every goal whose section was run."""
    return [
        *_throughput(rows), *_patches(rows), *_sharing(rows), *_resume(rows), *_tools(rows), *_shuffle(rows)
    ]  # fmt: skip


def _goal(name: str, value: float | None, goal: float, sign: str = ">=") -> dict[str, Any]:
    verdict = "–" if value is None else "met" if (value >= goal if sign == ">=" else value <= goal) else "MISSED"
    return {"name": name, "value": value, "sign": sign, "goal": goal, "verdict": verdict}


def _of(rows: Rows, section: str, role: str = "ours") -> Rows:
    return [row for row in rows if row["section"].startswith(section) and row["role"] == role]


def _to_limit(rows: Rows, section: str, goal: float) -> list[dict[str, Any]]:
    return [_goal(f"{section}: of the limit", row.get("ratio_to_limit"), goal) for row in _of(rows, section)]


def _to_peer(rows: Rows, section: str, peer: str, goal: float) -> list[dict[str, Any]]:
    return [
        _goal(f"{section}: times {peer}", row.get("ratio_to_peers", {}).get(peer), goal) for row in _of(rows, section)
    ]


def _to_peers(rows: Rows, section: str, goal: float) -> list[dict[str, Any]]:
    """The goal against the best of all peers that were measured; not met by leaving one out."""
    found = []
    for row in _of(rows, section):
        ratios = row.get("ratio_to_peers", {})
        missing = [peer for peer, ratio in ratios.items() if ratio is None]
        value = min((ratio for ratio in ratios.values() if ratio is not None), default=None)
        name = f"{section}: times the best peer" + (f" ({len(missing)} not measured)" if missing else "")
        found.append(_goal(name, None if len(missing) == len(ratios) else value, goal))
    return found


def _throughput(rows: Rows) -> list[dict[str, Any]]:
    one, two = "compressed volumes, one process", "compressed volumes, two workers"
    return [
        *_to_limit(rows, one, 0.9), *_to_peer(rows, one, "webdataset nii.gz", 4), *_to_peers(rows, one, 1.15),
        *_to_peers(rows, two, 1.6), *_to_limit(rows, "raw volumes", 0.9),
        *_to_peer(rows, "JPEG", "webdataset jpg stock", 1.9),
    ]  # fmt: skip


def _patches(rows: Rows) -> list[dict[str, Any]]:
    found = []
    for row in _of(rows, "patches"):
        ratios = [ratio for ratio in row.get("ratio_to_peers", {}).values() if ratio is not None]
        found.append(_goal(f"{row['section']}: times nii.gz", min(ratios, default=None), 50))
        found.append(_goal(f"{row['section']}: MB fetched each", row.get("fetched_mb_each"), 2.5, "<="))
    return found


def _sharing(rows: Rows) -> list[dict[str, Any]]:
    # "In the time of 20": to within a tenth.
    return [
        _goal(f"{row['name']}: of the time without sharing", 1 / ratio if ratio else None, 1.1, "<=")
        for row in _of(rows, "examples that share")
        for ratio in (row.get("ratio_to_limit"),)
    ]


def _resume(rows: Rows) -> list[dict[str, Any]]:
    ours = [row for row in rows if row["section"] == "first batch after a resume" and row["name"].startswith("Shard")]
    slowest = [row["spread"][1] for row in ours if row["median"] is not None]
    value = max(slowest) if ours and len(slowest) == len(ours) else None
    return [_goal("first batch after a resume, slowest of all, ms", value, 100, "<=")] if ours else []


def _tools(rows: Rows) -> list[dict[str, Any]]:
    return [
        *_to_peer(rows, "walk over a tar's headers", "tarfile", 10),
        *_to_peer(rows, "write volumes", "tar of nii.gz", 20),
    ]  # fmt: skip


def _shuffle(rows: Rows) -> list[dict[str, Any]]:
    return [
        _goal("global shuffle: of uniform mixing", row.get("ratio_to_limit"), 0.99)
        for row in _of(rows, "shuffle")
        if row["name"] == "global"
    ]
