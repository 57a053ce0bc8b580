import shutil
from pathlib import Path

import pytest
from tests.builds import synthetic_release


@pytest.fixture(scope="session")
def shared_build(tmp_path_factory) -> str:
    """A build with a release that no test changes."""
    return synthetic_release(tmp_path_factory.mktemp("shared"), n_units=36)


@pytest.fixture
def build(shared_build, tmp_path) -> str:
    """A copy that a test may damage."""
    return str(shutil.copytree(Path(shared_build), tmp_path / "build"))


@pytest.fixture(scope="session")
def shared_small_build(tmp_path_factory) -> str:
    """A build of twelve units with a release, that no test changes."""
    return synthetic_release(tmp_path_factory.mktemp("small"), n_units=12)


@pytest.fixture
def small_build(shared_small_build, tmp_path) -> str:
    """A copy of it that a test may damage."""
    return str(shutil.copytree(Path(shared_small_build), tmp_path / "small"))
