"""Engine: runs one function over many pieces of work, in this process or as Ray tasks, with progress shown."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from medloom.schemas.errors import ConfigError, RetryLater

W = TypeVar("W")
R = TypeVar("R")
HERE, LOCAL = "none", "local"  # what --ray-address may be, besides an address
IN_FLIGHT_PER_CPU = 2


class Lazily(Sequence[W]):
    """Work that is made when it is asked for, so that only what is in flight is held."""

    def __init__(self, keys: Sequence[Any], make: Callable[[Any], W]):
        self._keys, self._make = keys, make

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, at: Any) -> Any:
        return self._make(self._keys[at])


def run(function: Callable[[W], R], work: Sequence[W], *, ray_address: str, told: Callable[[R], None]) -> list[R]:
    """Return `function(w)` for every piece of work, in order; `told` hears of each result as it comes.

    Args:
        function: importable by name; it opens what it needs by itself.
        ray_address: "none" (this process), "local" (Ray started here, one process per core) or a cluster's address.
        told: called in the driver, in the order in which work ends.

    Raises:
        whatever `function` raised first.
    """
    if ray_address == HERE or len(work) == 0:
        results = []
        for piece in work:
            results.append(function(piece))
            told(results[-1])
        return results
    with _ray(ray_address) as ray:
        return _run_on_ray(ray, function, work, told)


def _run_on_ray(ray: Any, function: Callable[[W], R], work: Sequence[W], told: Callable[[R], None]) -> list[R]:
    remote = ray.remote(num_cpus=1, max_retries=1)(function)
    limit = max(2, int(ray.cluster_resources().get("CPU", 1)) * IN_FLIGHT_PER_CPU)
    results: dict[int, R] = {}
    pending: dict[Any, int] = {}
    queue: Iterator[int] = iter(range(len(work)))
    try:
        while len(results) < len(work):
            while len(pending) < limit and (i := next(queue, None)) is not None:
                pending[remote.remote(work[i])] = i
            done, _ = ray.wait(list(pending), num_returns=1)
            for reference in done:
                i = pending.pop(reference)
                results[i] = ray.get(reference)
                told(results[i])
    except ray.exceptions.RayTaskError as fault:
        raise fault.cause if isinstance(fault.cause, Exception) else fault from None
    except ray.exceptions.RayError as fault:
        raise RetryLater(f"Ray lost a worker ({type(fault).__name__}); run the same command again") from fault
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)
    return [results[i] for i in range(len(work))]


@contextmanager
def _ray(address: str) -> Iterator[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError("Ray is not installed: pip install 'medloom[ray]', or give --ray-address none") from None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "BLOSC_NTHREADS", "OPENBLAS_NUM_THREADS")}
    if address == LOCAL:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        with _environment(threads):  # the workers inherit it; a runtime_env would start an agent and cost seconds
            ray.init(num_cpus=cores, include_dashboard=False, **quiet)
    else:
        import medloom

        try:
            ray.init(address=address, runtime_env={"py_modules": [medloom], "env_vars": threads}, **quiet)
        except ConnectionError as fault:
            raise RetryLater(f"cannot reach Ray at {address}: {fault}; is the cluster up?") from fault
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
