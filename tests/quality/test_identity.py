"""The curator's page counts what was covered and refused in pixels and whose face may show, and claims no more."""

import json
import re

from medloom.quality.facts import Facts
from medloom.quality.identity import identity_rows
from medloom.quality.report import write_report
from medloom.schemas.shard import ShardName
from medloom.schemas.tables import measured_cell

TRAIN = ShardName("train", 0)


def looked_at(build, change) -> None:
    """Say of the media of the first shard what stages find: a number per picture, a face per volume."""
    counts = iter([0.0, 2.0, 5.0, -1.0])
    for layout in build.ledger(TRAIN)["tars"]:
        content = {"jpg": "jpg", "png": "png"}.get(layout, "ct.b2nd")

        def found(row, content=content):
            if row["field"] != content:
                return {"measured": measured_cell({"text_boxes": 99.0}), "face": "possible"}  # a member of no account
            if content == "ct.b2nd":
                return {"measured": measured_cell({"text_boxes": -1.0, "std": 7.0}), "face": "possible"}
            return {"measured": measured_cell({"std": 3.0, "text_boxes": next(counts, -1.0)}), "face": ""}

        change(build, TRAIN.index(layout), found)


def refuse(build, *reasons: str) -> None:
    ledger = build.ledger(TRAIN)
    row = {"unit": "u", "key": "u", "source": "scans", "stage": "read", "detail": "", "source_bytes": 0}
    ledger["refused"] += [{**row, "key": f"u-{i}", "reason": reason} for i, reason in enumerate(reasons)]
    build.store.write(TRAIN.ledger, json.dumps(ledger).encode())


def test_what_was_found_in_pixels_is_counted(build, change):
    looked_at(build, change)
    refuse(build, "pixels.text", "pixels.stated_text", "dicom.dose_report", "dicom.screen_capture", "other.reason")
    found = {what: (count, remark) for count, what, remark in identity_rows(Facts(build))}
    assert found["images searched for text"][0] == 3
    assert found["images with text covered"] == (2, "7 places in them")
    assert found["refused for text"][0] == 2
    assert found["captures refused"][0] == 2
    assert found["volumes, face possible"][0] == _volumes(build) > 0
    assert found["volumes, face removed"][0] == found["volumes, face none"][0] == 0


def _volumes(build) -> int:
    return sum(field == "ct.b2nd" for field in build.index(TRAIN, ["field"])["field"].to_pylist())


def test_the_page_shows_the_counts_and_claims_no_anonymity(build, change):
    looked_at(build, change)
    write_report(build)
    page = build.store.read("report/report.html").decode()
    section = re.search(r'<section id="identity".*?</section>', page, re.DOTALL)
    assert section
    assert "7 places in them" in section[0]
    assert "nothing here says that the data are anonymous" in section[0]
    assert '<a href="#identity">' in page


def test_a_build_in_which_nobody_looked_has_no_such_section(build):
    assert identity_rows(Facts(build)) == []
    write_report(build)
    assert 'id="identity"' not in build.store.read("report/report.html").decode()
