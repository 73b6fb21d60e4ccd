# Two commands to know: `make demo` and `make test`. Both work on a fresh machine with Python 3.11 or newer, pip and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Each stamp says that the environment holds what pyproject.toml and constraints.txt ask for.
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help demo test lint format settings clean

help:
	@echo "make demo      install into .venv, train a small model on the built-in corpus, and let it write"
	@echo "make test      install with the dev extra, then: ruff, mypy, all tests"
	@echo "make lint      ruff and mypy only"
	@echo "make format    let ruff format the sources and tests"
	@echo "make settings  write docs/settings.md anew from the schema"
	@echo "make clean     remove .venv, caches and out-demo"
	@echo "PYTHON=python3.12 chooses the interpreter that .venv is made with."

demo: $(INSTALLED)
	$(BIN)/quill train demo --overwrite
	$(BIN)/quill sample out-demo --num_samples=1 --max_new_tokens=400 --temperature=0.6
	@echo
	@echo "That was a model which, minutes ago, knew nothing. To go on, first: source $(VENV)/bin/activate"
	@echo "  quill sample out-demo --start \"The value of\"    give it a beginning"
	@echo "  quill train --data mybook.txt                   train on a text of yours"
	@echo "  quill train shakespeare_char_cpu                train on Shakespeare (fetches 1.1 MB)"
	@echo "  quill configs                                   list the presets; docs/guide.md explains more"

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -rs

lint: $(INSTALLED_DEV)
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy --strict src

format: $(INSTALLED_DEV)
	$(BIN)/python -m ruff check --fix
	$(BIN)/python -m ruff format

settings: $(INSTALLED_DEV)
	$(BIN)/python -m quillgpt.config.documentation > docs/settings.md

clean:
	rm -rf $(VENV) out-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
		echo "Quill needs Python 3.11 or newer, but there is no $(PYTHON); name one: make PYTHON=... $(MAKECMDGOALS)" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Quill needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
		echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV); PyTorch is large, so the first time takes minutes"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(INSTALLED_DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV); PyTorch is large, so the first time takes minutes"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@ $(INSTALLED)
