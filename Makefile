# make run           install the runtime (no torch) into .venv and answer a question about a picture
# make install       install everything, torch and tests included
# make check         the same; lint, check types and the borders between rooms
# make test          the same, and the tests
# make coverage      the tests, counting the package's lines that they run; fails below the share in pyproject.toml
# make test-sweep    what the tests look at in a few models, in every model and type, and with more seeds
# make test-js       the JavaScript host (Node, npm) against Python, in Node and, where it is installed, in Chromium
# make test-edges    2,000 hostile calls of the command line
# make test-hostile  6,000 hostile folders, checkpoints, pictures, messages, addresses and options, each with 4 GB and 30 s

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: install run test coverage test-sweep test-js test-edges test-hostile check clean

.venv/.runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) '.[cpu]'
	@touch $@

.venv/.everything: .venv/.runtime
	$(PIP) '.[cpu,export,test]'
	@touch $@

.venv/.package: .venv/.runtime $(wildcard *.py demo/*.py demo/words.txt demo/model/* export/*.py export/*/*.py graphs/*.py runtime/*.py runtime/*/*.py)
	@rm -rf build  # or modules that have moved since would be installed again
	@$(PIP) --no-deps --force-reinstall .
	@touch $@

run: .venv/.package
	cd examples && env -u IDEFICS2_ONNX_MODEL ../$(BIN)/idefics2-onnx run shapes.png "What is in the picture?"

install: .venv/.everything .venv/.package

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=tests/support $(BIN)/mypy -p idefics2_onnx -m typed_app
	$(BIN)/lint-imports

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --dist loadfile

coverage: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --dist loadfile --cov --cov-report term

test-sweep: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --dist loadfile -m "sweep and not javascript"

JS := examples/javascript

$(JS)/node_modules/.package-lock.json: $(JS)/package-lock.json
	cd $(JS) && ONNXRUNTIME_NODE_INSTALL=skip npm ci --no-audit --no-fund --loglevel error  # skip: CUDA's libraries
	@touch $@

.venv/.playwright: .venv/.everything
	$(PIP) playwright
	@touch $@

test-js: install .venv/.playwright $(JS)/node_modules/.package-lock.json
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "javascript and not sweep" -rP tests/javascript

test-edges: install
	OMP_NUM_THREADS=1 PYTHONPATH=tests/support $(BIN)/python tests/fuzz/edge_fuzz.py --cases 2000 --seed 0

test-hostile: install
	OMP_NUM_THREADS=1 PYTHONPATH=tests/support $(BIN)/python tests/fuzz/hostile_fuzz.py --cases 6000 --seed 0

clean:
	rm -rf .venv build dist *.egg-info
