# Two commands for a fresh machine with Python 3.11 or newer: `make demo`, which ends with the path of the report on
# what it made, and `make test`.
# Each makes its own virtual environment and installs the tested versions from constraints.txt.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: demo test check chaos clean

demo: $(VENV)/.installed
	$(BIN)/tokenizer-jobs run configs/quickstart.yaml
	$(BIN)/tokenizer-jobs report out/quickstart

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

# Format, lint, types and import contracts: what .ci/run adds to the tests.
check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Kills whatever can be killed, some rounds long, with a live view on a terminal; every item must end exactly once.
# The long form: make chaos ROUNDS=50
ROUNDS ?= 4
chaos: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.chaos --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED))

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch goes first and pinned: with it in place nothing else pulls another build of it.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install "$$(grep '^torch==' constraints.txt)"
	$(PIP) install -c constraints.txt -e .
	touch $@

# encodec is a test oracle; its torchaudio would break transformers' extractor next to a CPU torch, hence --no-deps.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -c constraints.txt -e ".[av,dev]"
	$(PIP) install --no-deps encodec==0.1.1
	touch $@

clean:
	rm -rf $(VENV) out
