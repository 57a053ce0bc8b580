"""Identity: what a build did about names in pixels and about faces, in counts, for the curator's page."""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from medloom.quality.checks import content_field
from medloom.quality.facts import Facts, tally
from medloom.schemas.medium import LAYOUTS

TEXT = ("pixels.text", "pixels.stated_text")
CAPTURES = ("dicom.screen_capture", "dicom.dose_report", "dicom.photograph")
FACES = {
    "possible": "a head is in sight, or nothing rules it out",
    "removed": "a face was there; its source says that it was removed",
    "none": "no head is in them",
}


def identity_rows(facts: Facts) -> list[tuple[int, str, str]]:
    """Return (count, what, remark) of what was looked for, [] for a build that looked for none of it."""
    boxes, faces = _measured(facts)
    looked = [n for n in boxes if n >= 0]
    refused = Counter[str]()
    for entry in facts.refused:
        refused[entry.reason] += entry.count
    rows = [
        (len(looked), "images searched for text", "by reading their pixels"),
        (sum(n > 0 for n in looked), "images with text covered", f"{sum(map(int, looked)):,} places in them"),
        (sum(refused[reason] for reason in TEXT), "refused for text", "in their pixels, found or stated"),
        (sum(refused[reason] for reason in CAPTURES), "captures refused", "saved screens, dose sheets, photographs"),
        *((faces[face], f"volumes, face {face}", remark) for face, remark in FACES.items()),
    ]
    return rows if any(count for count, _, _ in rows) else []


def _measured(facts: Facts) -> tuple[list[float], Counter[str]]:
    """Return every medium's `text_boxes` that was measured, and how many media have each `face`."""
    boxes: list[float] = []
    faces: Counter[str] = Counter()
    contents = pa.array(sorted({content_field(layout) for layout in LAYOUTS}))
    for shard in facts.shards:
        rows = facts.build.index(shard, ["field", "measured", "face"])
        rows = rows.filter(pc.is_in(rows["field"], contents))
        faces += tally(rows, "face")
        values = pc.list_flatten(rows["measured"]).combine_chunks()
        boxes += values.filter(pc.equal(values.field("name"), "text_boxes")).field("value").to_pylist()
    return boxes, faces
