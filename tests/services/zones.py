"""What a raw zone holds, for tests to look at."""

from pathlib import Path

from medloom.schemas.raw import RawZone


def rows(raw: str, *, role: str = "") -> dict[str, dict]:
    return {row["name"]: row for row in RawZone(raw).rows().to_pylist() if not role or row["role"] == role}


def kept(raw: str) -> list[str]:
    return [name for name, row in rows(raw).items() if row["outcome"] == "kept" and row["role"] != "record"]


def refusals(raw: str) -> dict[str, str]:
    return {name: row["reason"] for name, row in rows(raw).items() if row["outcome"] == "refused"}


def objects(raw: str) -> set[bytes]:
    """Return the bytes of all objects but the records of archives."""
    held = {path.read_bytes() for path in Path(raw).glob("objects/*/*")}
    return {data for data in held if not data.startswith(b'{"archive"')}
