"""The whole quality layer over a build that another writer made."""

import pytest
from tests.builds import synthetic_release

from medloom.quality.card import write_card
from medloom.quality.facts import summary
from medloom.quality.gates import run_gate
from medloom.quality.lint import lint
from medloom.quality.report import write_report
from medloom.schemas.build import Build
from medloom.schemas.release import Release


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return Build(synthetic_release(tmp_path_factory.mktemp("other"), n_units=24))


def test_gate_lint_summary_report_and_card_agree_on_a_build(other):
    release = Release(other.url)
    gate = run_gate(other)
    assert gate.failed == ()
    assert lint(other, release=release) == []
    counted = summary(other, release)
    assert counted["units"] == 24
    assert counted["media"] == other.manifest()["counts"]["media"]
    assert counted["examples"] == other.manifest()["counts"]["examples"] == counted["release"]["rows"]
    write_card(other, release)
    write_report(other, release=release, gate=gate)
    page = other.store.read("report/report.html").decode()
    assert page.count("data:image/jpeg;base64,") >= 24
    assert lint(other, release=release) == []
