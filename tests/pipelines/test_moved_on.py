"""A build that moved on, or whose gate is shut, is neither published nor released."""

import json

import pytest
from tests.builds import synthetic_release

from medloom.pipelines.publish import publish
from medloom.pipelines.release.job import make_release
from medloom.pipelines.release.states import Policy
from medloom.pipelines.steps import GATE
from medloom.schemas import manifest as manifests
from medloom.schemas.build import Build
from medloom.schemas.errors import FormatError, GateError
from medloom.schemas.release import Release


def test_only_the_state_that_was_released_is_published(tmp_path):
    build = Build(synthetic_release(tmp_path / "build", n_units=12))
    release, newest = Release(build.url), build.manifest()
    manifests.commit(build.store, recipe={**newest["recipe"], "name": "later"}, counts={}, known={})
    with pytest.raises(FormatError, match="which has manifest 2 now"):
        publish(release, str(tmp_path / "public"))
    assert not (tmp_path / "public").exists()


def test_a_shut_gate_shuts_releases(tmp_path):
    build = Build(synthetic_release(tmp_path / "build", n_units=12))
    judged = {"manifest": manifests.digest_of_manifest(build.manifest()), "success": False, "rows": []}
    build.store.write(GATE, json.dumps(judged).encode())
    with pytest.raises(GateError, match="cannot be released"):
        make_release([build.url], str(tmp_path / "releases"), policy=Policy(), master="local[2]")
