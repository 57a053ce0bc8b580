"""Language models: a client for any OpenAI-compatible endpoint, and a store that remembers every answer for ever.

Prompts, answers and keys reach no log and no error text: what a server says of a failed request is not repeated,
since servers quote the prompt.
"""

import email.utils
import ipaddress
import json
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import httpx
import tenacity
from pydantic import BaseModel, ValidationError

from medloom.connectors.settings import LLM_KEY
from medloom.schemas.ask import Answer, Ask, Request
from medloom.schemas.errors import ConfigError, Refused, RetryLater
from medloom.schemas.keys import canonical_json, fingerprint, sha256_hex
from medloom.schemas.store import Store

T = TypeVar("T")

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
# What the model itself did with a request: asking again in another run could give other rows, so it is remembered.
OUTCOMES = frozenset({"llm.truncated", "llm.filtered", "llm.declined", "llm.empty", "llm.schema"})


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None


class _Served(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Served]


class _Transient(Exception):
    """A fault that the next attempt may not meet; `after_s` is what the server asked us to wait, -1 if nothing."""

    def __init__(self, what: str, after_s: float = -1.0):
        super().__init__(what)
        self.after_s = after_s


def goes_to(url: str) -> Literal["local", "remote"]:
    """Return "local" when the host of `url` is this machine's loopback (127.0.0.0/8, ::1, localhost), else "remote"."""
    host = httpx.URL(url).host
    if host == "localhost":
        return "local"
    try:
        return "local" if ipaddress.ip_address(host).is_loopback else "remote"
    except ValueError:
        return "remote"


def permitted(ask: Ask, *, egress: str) -> bool:
    """Whether terms with `llm_egress` "none", "local" or "any" let their text go to `ask`; another word lets none."""
    return egress == "any" or (egress == "local" and ask.egress == "local")


def model_digest(model: str, weights_sha256: str = "") -> str:
    """Return the digest that stands for a model: its id as served and, where we hold the file, its weights."""
    return fingerprint("chat", model, weights_sha256)


@dataclass(frozen=True)
class Patience:
    """How long a client keeps trying.

    Attributes:
        attempts: per request, the first included.
        timeout_s: for one answer; connecting has 10 s.
        longest_wait_s: between two attempts; a server that asks for more ends the run with `RetryLater`.
    """

    attempts: int = 6
    timeout_s: float = 120.0
    longest_wait_s: float = 60.0


class ChatModel:
    """A language model behind `url` (`http://host:port/v1`), asked over chat/completions with a JSON schema.

    Args:
        url: base of the API, up to and with `/v1`, without credentials.
        model: id as served; "" asks the server, which must then serve exactly one.
        key: bearer token, "" for none.
        digest: what stands for the model in fingerprints and in the store, "" derives it from the id.
        patience: see `Patience`.

    Raises:
        ConfigError: `url` is no such address, the key is wrong, or no single model is served.
        RetryLater: the server cannot be reached.
    """

    def __init__(self, url: str, *, model: str = "", key: str = "", digest: str = "", patience: Patience | None = None):
        self.url = checked_url(url)
        self.egress: Literal["local", "remote"] = goes_to(self.url)
        self._patience = patience or Patience()
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(self._patience.timeout_s, connect=min(10.0, self._patience.timeout_s)),
            # A proxy named in the environment would carry loopback text to another machine: "local" must mean local.
            trust_env=self.egress == "remote",
            follow_redirects=False,
        )
        self.model = model or self._only_model()
        self.digest = digest or model_digest(self.model)

    def __call__(self, request: Request) -> Answer:
        """Return the model's answer; see `Ask` for what is raised."""
        return self._patiently(lambda: self._complete(self._body(request), expects_json=request.schema is not None))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [
                {"role": "system", "content": request.system},
                {"role": "user", "content": request.prompt},
            ],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "stream": False,
        }
        if request.schema is not None:
            named = {"name": "answer", "strict": True, "schema": request.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        return body

    def _complete(self, body: dict[str, Any], *, expects_json: bool) -> Answer:
        """One attempt."""
        response = self._send("POST", "/chat/completions", body)
        if response.status_code != 200:
            raise Refused("llm.request", f"the server answers {response.status_code}{_error_code(response)}")
        try:
            completion = _Completion.model_validate_json(response.content)
        except ValidationError:
            raise _Transient("an answer that is not a chat completion") from None
        if not completion.choices:
            raise _Transient("an answer without choices")
        choice = completion.choices[0]
        text = _checked_text(choice, expects_json=expects_json)
        usage = completion.usage or _Usage()
        return Answer(text, usage.prompt_tokens, usage.completion_tokens, remembered=False)

    def _only_model(self) -> str:
        def attempt() -> list[str]:
            response = self._send("GET", "/models")
            if response.status_code != 200:
                raise ConfigError(f"{self.url}/models answers {response.status_code}; name the model: {self.url}#MODEL")
            try:
                return [served.id for served in _Models.model_validate_json(response.content).data]
            except ValidationError:
                raise _Transient("a list of models that is not one") from None

        served = self._patiently(attempt)
        if len(served) != 1:
            shown = ", ".join(sorted(served)[:20]) or "none"
            raise ConfigError(f"{self.url} serves {len(served)} models ({shown}); choose one as {self.url}#MODEL")
        return served[0]

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """Return a response that is neither a transient fault nor a wrong key nor a wrong address."""
        try:
            response = self._client.request(method, self.url + path, json=body)
        except httpx.TransportError as error:  # connection, time-out, a body cut short
            raise _Transient(type(error).__name__) from None
        status = response.status_code
        if status in TRANSIENT:
            raise _Transient(f"status {status}", _retry_after_s(response.headers.get("Retry-After", "")))
        if status in (401, 403):
            raise ConfigError(f"{self.url} answers {status}: export a key that it accepts as {LLM_KEY}")
        if status in (404, 405) or 300 <= status < 400:
            raise ConfigError(f"{self.url}{path} answers {status}: give the base of the API, as in http://host:port/v1")
        return response

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Run `attempt` until it meets no transient fault, within the client's patience."""
        retrying = tenacity.Retrying(
            stop=self._gives_up,
            wait=self._wait_s,
            retry=tenacity.retry_if_exception_type(_Transient),
            reraise=True,
        )
        try:
            return retrying(attempt)
        except _Transient as fault:
            asked = (
                f", which asks to wait {fault.after_s:.0f} s" if fault.after_s > self._patience.longest_wait_s else ""
            )
            raise RetryLater(
                f"the language model at {self.url} keeps failing: {fault}{asked}, attempt "
                f"{retrying.statistics.get('attempt_number', 1)} of {self._patience.attempts}; run the same command "
                "again later: the answers it gave so far are remembered"
            ) from None

    def _gives_up(self, state: tenacity.RetryCallState) -> bool:
        asks_too_much = _fault(state).after_s > self._patience.longest_wait_s
        return asks_too_much or state.attempt_number >= self._patience.attempts

    def _wait_s(self, state: tenacity.RetryCallState) -> float:
        """What the server asked for plus up to a second, so that clients do not return together; else back-off."""
        asked_s = _fault(state).after_s
        if asked_s >= 0:
            return asked_s + random.uniform(0, min(1.0, asked_s))
        ceiling_s = min(self._patience.longest_wait_s, 0.5 * 2 ** (state.attempt_number - 1))
        return random.uniform(ceiling_s / 2, ceiling_s)


def _fault(state: tenacity.RetryCallState) -> _Transient:
    fault = state.outcome.exception() if state.outcome else None
    return fault if isinstance(fault, _Transient) else _Transient("")


def checked_url(url: str) -> str:
    """Return `url` without a trailing slash.

    Raises:
        ConfigError: it is not http(s) with a host, or carries a user name, a password, a query or a fragment.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        raise ConfigError("the address of the language model is no URL; give one like http://host:port/v1") from None
    if parsed.userinfo:
        raise ConfigError(f"the address of the language model carries credentials; export the key as {LLM_KEY} instead")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise ConfigError(f"llm={url!r} is no base address of an API; give one like http://host:port/v1, or 'embedded'")
    return url.rstrip("/")


def _checked_text(choice: _Choice, *, expects_json: bool) -> str:
    """Return what the model said, or refuse by what it did."""
    if choice.finish_reason == "length":
        raise Refused("llm.truncated", "the answer was cut at max_tokens; allow more, or ask for less")
    if choice.finish_reason == "content_filter":
        raise Refused("llm.filtered", "the server's content filter withheld the answer")
    if choice.message.refusal:
        raise Refused("llm.declined", "the model declined to answer")
    text = choice.message.content or ""
    if not text.strip():
        raise Refused("llm.empty", "the model said nothing")
    if expects_json:
        try:
            json.loads(text)
        except ValueError:
            raise Refused("llm.schema", "the answer is not JSON although a schema was given") from None
    return text


def _retry_after_s(header: str) -> float:
    """Return the seconds that `Retry-After` asks for (RFC 9110 10.2.3: seconds or a date), -1 without a usable one."""
    if re.fullmatch(r"\s*\d{1,9}(?:\.\d+)?\s*", header):
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return -1.0


def _error_code(response: httpx.Response) -> str:
    """Return the kind of an error, " (context_length_exceeded)", never its message, which quotes the prompt."""
    try:
        error = response.json()["error"]
        kinds = [str(error.get(name, "")) for name in ("code", "type")]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return next((f" ({kind})" for kind in kinds if re.fullmatch(r"[a-z_]{3,40}", kind)), "")


class ResponseStore:
    """Answers by what was asked, for ever: `aa/<sha256>.json` under a folder or an fsspec URL.

    A file holds its key and the sha256 of its content; one that is torn or foreign counts as absent. The first answer
    that is kept wins, so that all who ask the same build the same rows, whoever asks first. Processes may share it.
    """

    def __init__(self, folder: str):
        self._store = Store(folder)
        self._writing = threading.Lock()

    @staticmethod
    def key(digest: str, request: Request) -> str:
        """Return the 64 hex digits under which the answer of the model with `digest` to `request` stands."""
        return sha256_hex(canonical_json([digest, request]))

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what is kept under `key`, or None when there is nothing that can be trusted."""
        try:
            found = json.loads(self._store.read(_place(key)))
            kept, stated = found["kept"], found["sha256"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # absent, torn or foreign: ask again
            return None
        return kept if isinstance(kept, dict) and stated == _seal(key, kept) else None

    def keep(self, key: str, said: dict[str, Any]) -> dict[str, Any]:
        """Keep `said` unless something is kept already; return what stands."""
        data = canonical_json({"key": key, "kept": said, "sha256": _seal(key, said)}).encode()
        with self._writing:
            if not self._store.create(_place(key), data):
                if (first := self.get(key)) is not None:
                    return first
                self._store.write(_place(key), data)  # what stood there was torn
        return said


def _place(key: str) -> str:
    return f"{key[:2]}/{key}.json"


def _seal(key: str, kept: dict[str, Any]) -> str:
    return sha256_hex(canonical_json([key, kept]))


class Remembering:
    """An `Ask` that asks each request once: answers, and what the model refused, come from `store` ever after."""

    def __init__(self, ask: Ask, store: ResponseStore):
        self._ask, self._store = ask, store
        self.model, self.digest, self.egress = ask.model, ask.digest, ask.egress

    def __call__(self, request: Request) -> Answer:
        """Return the remembered answer, else the model's; see `Ask` for what is raised."""
        key = self._store.key(self.digest, request)
        kept = self._store.get(key)
        if kept is not None:
            return _told(kept, remembered=True)
        try:
            answer = self._ask(request)
            said: dict[str, Any] = {
                "text": answer.text, "prompt_tokens": answer.prompt_tokens, "answer_tokens": answer.answer_tokens,
            }  # fmt: skip
        except Refused as refused:
            if refused.reason not in OUTCOMES:
                raise
            said = {"refused": refused.reason, "detail": refused.detail}
        return _told(self._store.keep(key, said), remembered=False)


def _told(kept: dict[str, Any], *, remembered: bool) -> Answer:
    if "refused" in kept:
        raise Refused(kept["refused"], kept["detail"])
    return Answer(kept["text"], kept["prompt_tokens"], kept["answer_tokens"], remembered)
