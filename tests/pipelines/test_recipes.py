"""Every recipe that comes with MedLoom builds a few units offline, by the command that the README names."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from tests.demo import small_source
from tests.pipelines.label_sets import chestxray14

from medloom.pipelines.recipe import Recipe, _writers, load_recipe, recipe_names
from medloom.schemas.errors import ConfigError
from medloom.schemas.keys import fingerprint
from medloom.schemas.release import Release

SETTINGS = {
    "demo": ["--set", "source={source}"],
    "labelled_images": ["--set", "source={source}/../sets", "--set", "set=chestxray14"],
    "m3d_seg": ["--set", "source={source}/../public"],
    "pmc_captions": ["--set", "source={source}/case_reports"],
    "pmc_case_report": ["--set", "source={source}/case_reports"],
    "pmc_inline": ["--set", "source={source}/case_reports"],
    "scans": ["--set", "source={source}/scans", "--set", "deidentify=off", "--set", "terms=mit"],
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    pytest.importorskip("allofplos", reason="needs the extra demo")
    folder = tmp_path_factory.mktemp("demo")
    small = small_source(folder / "whole", folder / "small")
    chestxray14(folder / "sets")
    public_set(folder / "public/Task03_Liver")
    return small


def public_set(folder: Path) -> None:
    """Write two synthetic scans with masks as the Medical Segmentation Decathlon lays them out."""
    for number in (0, 1):
        values = np.random.default_rng(number).integers(-1000, 400, (72, 72, 8)).astype(np.int16)
        masks = np.zeros(values.shape, np.uint8)
        masks[10:40, 20:50, 2:6], masks[15:20, 30:40, 3:5] = 1, 2
        for part, array in (("imagesTr", values), ("labelsTr", masks)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            image = nibabel.Nifti1Image(array, np.diag([-0.8, -0.8, 2.5, 1.0]))
            image.to_filename(folder / part / f"liver_{number}.nii.gz")


def medloom(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medloom", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_builds_two_units_or_more_offline(name, source, tmp_path):
    settings = [text.format(source=source) for text in SETTINGS[name]]
    done = medloom("build", name, "--to", str(tmp_path / "out"), *settings, "--ray-address", "none", "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    made = json.loads(done.stdout)
    assert made["counts"]["units"] >= 1
    assert sum(made["counts"]["media"].values()) >= 2
    assert sum(made["release"]["live"].values()) >= 2
    flow = made["counts"]["flow"]
    assert flow["in"] + flow["made"] == flow["out"] + flow["refused"]
    assert Release(str(tmp_path / "out")).number == 1
    assert Path(made["files"][0]).is_file()


def test_an_unknown_parameter_lists_the_known_ones():
    with pytest.raises(ConfigError, match="pmc_inline has no parameter 'sorce'; it knows source"):
        load_recipe("pmc_inline", {"sorce": "x"})


def test_a_value_of_another_type_says_which_type_is_meant():
    with pytest.raises(ConfigError, match="max_media=many is not int"):
        load_recipe("pmc_inline", {"source": "x", "max_media": "many"})


def test_a_location_decides_no_fingerprint(tmp_path):
    prints = {load_recipe("pmc_inline", {"source": str(tmp_path / s)}).recipe.media_fingerprint() for s in "ab"}
    assert len(prints) == 1
    assert "source" not in load_recipe("pmc_inline", {"source": "x"}).facts


def test_the_codec_is_part_of_the_fingerprint_and_the_usual_one_changes_none():
    prints = {}
    for codec in ("bytedelta_zstd1", "bitshuffle_lz4"):
        loaded = load_recipe("scans", {"source": "x", "codec": codec})
        assert loaded.recipe.codec == loaded.facts["codec"] == codec
        prints[codec] = loaded.recipe.media_fingerprint()
    assert len(set(prints.values())) == 2
    usual = load_recipe("scans", {"source": "x"}).recipe
    assert usual.media_fingerprint() == prints["bytedelta_zstd1"]
    of_older_builds = fingerprint("media", usual.sources, usual.stages, _writers())
    assert usual.media_fingerprint() == of_older_builds


def test_a_codec_that_nobody_knows_is_refused():
    with pytest.raises(ConfigError, match="codec=gzip is not"):
        load_recipe("m3d_seg", {"source": "x", "codec": "gzip"})
    with pytest.raises(ConfigError, match="codec 'gzip' is none of bytedelta_zstd1, bitshuffle_lz4"):
        Recipe(name="mine", sources=(), stages=(), tasks=(), codec="gzip")  # type: ignore[arg-type]


def test_a_sources_folder_in_another_parameter_than_a_location_is_refused(tmp_path):
    text = (
        "from medloom.pipelines.recipe import Recipe\n"
        "from medloom.pipelines.sources.papers import Papers\n"
        "def recipe(*, source: str) -> Recipe:\n"
        '    return Recipe(name="mine", sources=(Papers("p", source),), stages=(), tasks=())\n'
    )
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match="annotate it as Location"):
        load_recipe(str(tmp_path / "mine.py"), {"source": "/data/Doe^John"})


@pytest.mark.parametrize("text", [b"def recipe(:\n", b"x = '\xff'\n"])
def test_a_recipe_file_that_cannot_be_loaded_is_the_users_mistake(tmp_path, text):
    (tmp_path / "mine.py").write_bytes(text)
    with pytest.raises(ConfigError, match="cannot load the recipe"):
        load_recipe(str(tmp_path / "mine.py"), {})


def test_a_parameter_that_is_not_finite_is_refused():
    with pytest.raises(ConfigError, match="spacing_mm=nan is not a finite number"):
        load_recipe("scans", {"source": "x", "spacing_mm": "nan"})
