import json

import pytest
from tests.model.tiny import FILE, tiny

from medloom.model.config import ModelConfig, RunConfig, load_config
from medloom.schemas.errors import ConfigError


def test_a_config_survives_json():
    config = tiny(mix={"papers": 2, "scans": 1}, where={"task": ["caption"]})
    assert RunConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_file_makes_a_config_and_options_change_it(tmp_path):
    (tmp_path / "run.py").write_text(FILE)
    assert load_config(str(tmp_path / "run.py"), steps=3, seed=None) == tiny(steps=3)
    assert load_config(None, steps=3) == RunConfig(steps=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from medloom.model.config import *\nconfig = RunConfig(lr=1)", "'lr'.*RunConfig takes steps, "),
        ("from medloom.model.config import *\nconfig = RunConfig(model=ModelConfig(depth=1))", "'depth'.*latents"),
        ("settings = 3", "makes no `config"),
        ("config = RunConfig()", "not defined"),
        ("config = = 3", "invalid syntax"),
        ("import medloom_of_tomorrow", "medloom_of_tomorrow"),
    ],
)
def test_a_file_that_makes_no_config_says_why(tmp_path, text, message):
    (tmp_path / "run.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(str(tmp_path / "run.py"))


def test_a_missing_file_and_an_unknown_option_are_named(tmp_path):
    with pytest.raises(ConfigError, match="is not a file"):
        load_config(str(tmp_path / "none.py"))
    with pytest.raises(ConfigError, match="RunConfig has no stepz; it takes steps"):
        load_config(None, stepz=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"steps": 1.5}, {"global_batch": True}, {"learning_rate": 0}, {"learning_rate": float("nan")},
        {"weight_decay": -1}, {"device": "tpu"}, {"max_bytes": 0}, {"seed": -1},
    ],
)  # fmt: skip
def test_values_out_of_range_are_the_users_mistake(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RunConfig(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"picture_grid": (100, 128)}, {"volume_grid": (3, 16, 16)}, {"volume_grid": (64, 64)}, {"heads": 3}]
)
def test_sizes_that_do_not_fit_are_the_users_mistake(wrong):
    with pytest.raises(ConfigError, match="multiple"):
        ModelConfig(**wrong)
