"""What a small soak against a real S3 server asks for is what was predicted, and nothing grows."""

from dataclasses import replace

import pytest


@pytest.mark.slow
def test_a_soak_asks_for_what_was_predicted(tmp_path, monkeypatch):
    for library in ("s3fs", "moto", "werkzeug"):
        pytest.importorskip(library)
    from tests.bench import soak

    monkeypatch.syspath_prepend(str(soak.ROOT))  # spawned ranks find the bench by its name
    rows = soak.measure(replace(soak.QUICK, seconds=0), tmp_path)
    assert [row["name"] for row in rows] == ["whole volumes", "patches", "whole volumes, cached"]
    for row in rows:
        assert soak.faults(row) == []
        assert row["epochs"] >= soak.EPOCHS
    assert rows[2]["bytes"] < rows[0]["bytes"] / 3, "a cache reads each piece once, in six epochs and two ranks"
    assert soak.faults({**rows[0], "median": 1.2}) == ["bytes are 1.2 of the prediction"]
