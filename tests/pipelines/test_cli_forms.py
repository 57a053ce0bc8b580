"""`medloom export` and `medloom import` as their users meet them."""

import json
from pathlib import Path

import pytest
from tests.pipelines.forms import released, write_rich
from tests.sources import picture_bytes

from medloom.__main__ import main


@pytest.fixture
def cli(capsys):
    """Run a command in this process: (exit status, standard output, standard error)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(a) for a in arguments])
        return status, *capsys.readouterr()

    return call


@pytest.mark.parametrize("command", ["export", "import"])
def test_without_a_form_the_forms_are_listed(cli, command):
    status, out, err = cli(command)
    assert (status, err) == (0, "")
    names = ["m3d", "pmc_case_report", "pmc_inline", "pmc_inline_sentences", "pmc_oa", "radfm", "stand_off"]
    if command == "export":
        names = sorted([*names, "hf", "nifti", "webdataset"])
    assert [line.partition(": ")[0] for line in out.splitlines()] == names
    assert list(json.loads(cli(command, "--json")[1])) == names


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("export", "pmc_inline"), "needs DATA and --to"),
        (("export", "pmc_inline", "OUT"), "needs --to;"),
        (("export", "nope", "OUT", "--to", "NEW"), "there is no form 'nope' to export; known are hf, m3d, "),
        (("export", "pmc_inline", "OUT", "--to", "NEW"), "holds no release"),
        (("export", "pmc_inline", "OUT", "--to", "FILE"), "holds no release"),
        (("import", "pmc_oa", "--to", "NEW"), "needs SOURCE"),
        (("import", "nope", "OUT", "--to", "NEW"), "there is no form 'nope' to import; known are m3d, "),
        (("import", "pmc_oa", "OUT", "--to", "NEW"), "is not there"),
        (("import", "pmc_oa", "FILE", "--to", "NEW"), "is a file, not a folder"),
        (("import", "stand_off", "OUT", "--to", "NEW"), "--source FOLDER"),
        (("import", "pmc_oa", "IN", "--to", "FILE"), "FILE"),
    ],
)
def test_a_mistake_is_exit_2_with_one_sentence_and_nothing_written(cli, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("a file")
    Path("IN").mkdir()
    Path("IN/x.jsonl").write_text("{}")
    status, out, err = cli(*arguments)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert says in err
    assert {p.name for p in tmp_path.iterdir()} == {"FILE", "IN"}


def test_out_and_back_is_told_in_counts(cli, tmp_path):
    write_rich(tmp_path / "papers", "rich", '<article-id pub-id-type="pmc">7</article-id>')
    release = released(tmp_path / "out", tmp_path / "papers")
    status, out, err = cli("export", "pmc_oa", release.url, "--to", tmp_path / "oa")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"exported {tmp_path}/oa as pmc_oa",
        "articles: 1 in, 1 written, kept back: none",
        "examples: 4 in, 3 written, kept back: 1 form.no_place",
        "media: 3 in, 3 written, kept back: none",
    ]
    (tmp_path / "oa/images/none.png").write_bytes(picture_bytes(1, "png"))
    status, out, err = cli("import", "pmc_oa", tmp_path / "oa", "--to", tmp_path / "back")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"imported pmc_oa to {tmp_path}/back",
        "article: 1 in, 1 made, refused: none",
        "image: 4 in, 3 made, refused: 1 image.not_cited",
        "line: 3 in, 3 made, refused: none",
    ]
    status, out, _ = cli("import", "stand_off", tmp_path / "oa", "--source", tmp_path, "--to", tmp_path / "x")
    assert status == 2
    status, out, _ = cli("export", "stand_off", tmp_path / "out", "--to", tmp_path / "off", "--json")
    assert json.loads(out)["counts"]["examples"]["written"] == 4
    status, out, _ = cli("export", "pmc_case_report", tmp_path / "out", "--to", tmp_path / "x")
    assert status == 1
