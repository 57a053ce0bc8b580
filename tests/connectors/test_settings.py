import re
import subprocess
import sys
from pathlib import Path

import pytest

from medloom.connectors import settings
from medloom.schemas.errors import ConfigError


def test_a_missing_identity_key_is_explained_and_the_command_it_names_makes_a_good_one(monkeypatch):
    monkeypatch.delenv("MEDLOOM_IDENTITY_KEY", raising=False)
    with pytest.raises(ConfigError) as raised:
        settings.identity_secret()
    said = str(raised.value)
    assert "MEDLOOM_IDENTITY_KEY" in said
    assert "deidentify=off" in said
    assert "public data" in said
    program = re.search(r'python -c "([^"]+)"', said)
    assert program is not None
    made = subprocess.run([sys.executable, "-c", program.group(1)], capture_output=True, text=True, check=True).stdout
    monkeypatch.setenv("MEDLOOM_IDENTITY_KEY", made)
    assert settings.identity_secret() == made.strip().encode()


def test_a_short_identity_key_is_refused_and_not_repeated(monkeypatch):
    monkeypatch.setenv("MEDLOOM_IDENTITY_KEY", "q7" * 15 + "z")
    with pytest.raises(ConfigError, match="holds 31 characters") as raised:
        settings.identity_secret()
    assert "q7q7" not in str(raised.value)
    monkeypatch.setenv("MEDLOOM_IDENTITY_KEY", "q7" * 16)
    assert settings.identity_secret() == b"q7" * 16


def test_identity_is_keyed_when_on_and_plain_when_off(monkeypatch):
    monkeypatch.setenv("MEDLOOM_IDENTITY_KEY", "a" * 32)
    keyed, plain = settings.identity("on"), settings.identity("off")
    assert plain.key_id == "none"
    assert keyed.key_id != "none"
    assert keyed.token("patient", "1") != plain.token("patient", "1")
    monkeypatch.setenv("MEDLOOM_IDENTITY_KEY", "b" * 32)
    assert settings.identity("on").token("patient", "1") != keyed.token("patient", "1")


@pytest.mark.parametrize("word", ["", "ON", "true", "none"])
def test_deidentify_is_on_or_off_and_nothing_else(word):
    with pytest.raises(ConfigError, match="neither 'on' nor 'off'"):
        settings.identity(word)


def test_the_llm_key_is_empty_when_not_set(monkeypatch):
    monkeypatch.delenv("MEDLOOM_LLM_KEY", raising=False)
    assert settings.llm_key() == ""
    monkeypatch.setenv("MEDLOOM_LLM_KEY", " secret\n")
    assert settings.llm_key() == "secret"


def test_a_child_process_imports_medloom_and_sees_no_secret(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("MEDLOOM_LLM_KEY", "secret")
    program = "import os, medloom.schemas.keys; print(any(n.startswith('MEDLOOM_') for n in os.environ))"
    done = subprocess.run(
        [sys.executable, "-c", program], env=settings.child_environment(), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr


def test_services_are_the_real_ones_unless_another_server_is_named(monkeypatch):
    for variable, usual in settings.SERVICES.values():
        monkeypatch.delenv(variable, raising=False)
        assert usual.startswith("https://")
    assert settings.service_url("europepmc") == "https://www.ebi.ac.uk/europepmc/webservices/rest"
    monkeypatch.setenv("MEDLOOM_EUROPEPMC_URL", "http://127.0.0.1:8000/rest/")
    assert settings.service_url("europepmc") == "http://127.0.0.1:8000/rest"


@pytest.mark.parametrize("url", ["ftp://x/", "x", "https://me:secret@x/", "https://x/?a=1", "https:///x"])
def test_a_base_url_that_is_none_is_told_and_not_repeated(monkeypatch, url):
    monkeypatch.setenv("MEDLOOM_PMC_URL", url)
    with pytest.raises(ConfigError, match="MEDLOOM_PMC_URL is no base address") as raised:
        settings.service_url("pmc")
    assert "secret" not in str(raised.value)


def test_ncbi_is_told_who_asks(monkeypatch):
    for name in ("MEDLOOM_EMAIL", "MEDLOOM_NCBI_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert settings.ncbi_params() == {"tool": "medloom"}
    monkeypatch.setenv("MEDLOOM_EMAIL", "me@example.org ")
    monkeypatch.setenv("MEDLOOM_NCBI_KEY", "k3y")
    assert settings.ncbi_params() == {"tool": "medloom", "email": "me@example.org", "api_key": "k3y"}
