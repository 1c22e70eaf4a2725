# Everything runs in .venv, which `setup` makes from constraints.txt; the other targets call it.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test bench
setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# The main job on the embedded digits: train, probe with few labels, draw a picture.
demo: setup
	rm -rf demo
	$(BIN)/anymask pretrain --out demo/digits
	$(BIN)/anymask reconstruct demo/digits -o demo/digits.png

# One thread in each of the test processes: more only get in each other's way.
test: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

bench: setup
	$(BIN)/python benchmarks/throughput.py
