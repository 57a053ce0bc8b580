"""A running imitation of the PMC Cloud Service, and fetching from it into a raw zone."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.services.pmc import Article, Pmc, pmc_service
from tests.sources import Quiet

from medloom.connectors.http import Http
from medloom.connectors.rates import Rates
from medloom.pipelines.fetch import job
from medloom.pipelines.fetch.job import FetchDone


@pytest.fixture
def service(monkeypatch) -> Iterator[Pmc]:
    with pmc_service() as running:
        monkeypatch.setenv("MEDLOOM_PMC_URL", running.url)
        yield running


@pytest.fixture
def fetch(service: Pmc, tmp_path: Path) -> Callable[..., FetchDone]:
    """Fetch articles into the raw zone tmp_path/raw, or `to`; hold the count of requests against the server's.

    `counts_all=False` when another server is asked, too.
    """

    def run(*articles: Article, to: Path = tmp_path / "raw", counts_all: bool = True, **settings: str) -> FetchDone:
        said = {"ids": ",".join(a.pmcid for a in articles)} if articles else {}
        with Http(rates=Rates(tmp_path / "rates"), timeout_s=10, attempts=3, longest_wait_s=2) as http:
            http.first_wait_s = 0.05
            asked = len(service.server.seen)
            done = job.fetch("pmc", str(to), said | settings, Quiet(), http=http)
        assert not counts_all or done.requests == len(service.server.seen) - asked
        return done

    return run
