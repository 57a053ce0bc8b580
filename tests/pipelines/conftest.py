"""One build over papers and scans that read-only tests share; a test that changes it works on a copy."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests import sources

from medloom.schemas.build import Build


@dataclass(frozen=True)
class Built:
    """A source, the recipe file over it, the build made of both, and its newest manifest."""

    source: Path
    recipe: str
    out: Path
    manifest: dict[str, Any]

    @property
    def build(self) -> Build:
        return Build(str(self.out))

    def copied(self, to: Path) -> "Built":
        """The same in another place, to be changed."""
        return replace(self, source=sources.copy(self.source, to / "source"), out=sources.copy(self.out, to / "out"))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("both")
    source, recipe = sources.write_both(folder / "source"), sources.write_recipe(folder / "both.py")
    return Built(source, recipe, folder / "out", sources.build(folder / "out", recipe, source))
