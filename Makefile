# make run           install the runtime (no torch) into .venv and answer a question about a picture
# make install       install everything, torch and tests included
# make check         the same; lint, check types and the borders between rooms
# make test          the same, and the tests
# make coverage      the tests, counting the package's lines that they run; fails below the share in pyproject.toml
# make test-sweep    what the tests look at in a few models, in every model and type, and with more seeds
# make test-matrix   the runtime's tests with each version of ONNX Runtime that is supported, the exporter's with transformers 5.24
# make test-js       the JavaScript host (Node, npm) against Python, in Node and, where it is installed, in Chromium
# make test-page     the server's page in Chromium, where that is installed
# make test-scale   batch and the server on Ray (2 GB of memory; kills included), and Triton, in a .venv-triton of its own
# make test-edges    2,000 hostile calls of the command line
# make test-hostile  6,000 hostile folders, checkpoints, pictures, messages, addresses and options, each with 4 GB and 30 s
# make test-batch    the command batch over 300 pictures, killed at ten random moments
# make test-integrations   test-optimum and test-llm: the plug-ins of integrations/, each with its host in a .venv-* of its own
# make test-frozen   freeze examples/frozen with PyInstaller, in .venv-frozen and build/frozen; compare its answers, print its size

PYTHON ?= python3
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: install run test coverage test-sweep test-js test-page test-matrix test-edges test-hostile test-batch test-scale test-integrations test-optimum \
	test-llm test-frozen check clean

.venv/.runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) '.[cpu]'
	@touch $@

.venv/.everything: .venv/.runtime
	$(PIP) '.[cpu,export,test]'
	@touch $@

.venv/.package: .venv/.runtime $(wildcard *.py runtime/server/page/* demo/*.py demo/words.txt demo/model/* export/*.py export/*/*.py export/*/*/*.py freezing/*.py graphs/*.py graphs/*/*.py on_ray/*.py runtime/*.py runtime/*/*.py)
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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --dist loadfile -m "sweep and not javascript and not page"

JS := examples/javascript

$(JS)/node_modules/.package-lock.json: $(JS)/package-lock.json
	cd $(JS) && ONNXRUNTIME_NODE_INSTALL=skip npm ci --no-audit --no-fund --loglevel error  # skip: CUDA's libraries
	@touch $@

.venv/.playwright: .venv/.everything
	$(PIP) playwright
	@touch $@

test-js: install .venv/.playwright $(JS)/node_modules/.package-lock.json
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "javascript and not sweep" -rP tests/javascript

test-page: install .venv/.playwright
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m page -rsP tests/page

test-matrix: install
	$(BIN)/python tests/by_hand/matrix.py

test-edges: install
	OMP_NUM_THREADS=1 PYTHONPATH=tests/support $(BIN)/python tests/fuzz/edge_fuzz.py --cases 2000 --seed 0

test-hostile: install
	OMP_NUM_THREADS=1 PYTHONPATH=tests/support $(BIN)/python tests/fuzz/hostile_fuzz.py --cases 6000 --seed 0

test-batch: install
	$(BIN)/python tests/by_hand/batch_kills.py

.venv/.ray: .venv/.everything
	$(PIP) '.[ray]'
	@touch $@

test-scale: install .venv/.ray
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m scale -rP tests/on_ray tests/runtime/server
	OMP_NUM_THREADS=1 $(BIN)/python tests/by_hand/ray_kills.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/by_hand/triton_answers.py

# Wheels of a plug-in are built beside its sources, where modules that have moved since would stay.
PLUG_IN = rm -rf integrations/$(1)/build && .venv-$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	--force-reinstall ./integrations/$(1) && rm -rf integrations/$(1)/build integrations/$(1)/*.egg-info
OTHER_PIP = bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

test-integrations: test-optimum test-llm

# It sees the packages in .venv: torch would be there twice.
.venv-optimum/.everything: pyproject.toml constraints.txt | install
	$(PYTHON) -m venv .venv-optimum
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > "$$(.venv-optimum/bin/python -c \
		"import sysconfig; print(sysconfig.get_path('purelib'))")/of-the-package.pth"
	.venv-optimum/$(OTHER_PIP) optimum
	@touch $@

test-optimum: .venv-optimum/.everything install
	@$(call PLUG_IN,optimum)
	OMP_NUM_THREADS=1 .venv-optimum/bin/python -m pytest integrations/optimum/tests

.venv-llm/.everything: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-llm
	.venv-llm/$(OTHER_PIP) '.[cpu]' llm pytest
	@touch $@

test-llm: .venv-llm/.everything install
	@rm -rf build && .venv-llm/$(OTHER_PIP) --no-deps --force-reinstall .
	@$(call PLUG_IN,llm)
	OMP_NUM_THREADS=1 EXPORTER=$(CURDIR)/$(BIN)/python .venv-llm/bin/python -m pytest integrations/llm/tests

# Nothing but the runtime: PyInstaller takes along what it finds.
.venv-frozen/.everything: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-frozen
	.venv-frozen/$(OTHER_PIP) '.[cpu]' pyinstaller
	@touch $@

test-frozen: .venv-frozen/.everything
	@rm -rf build && .venv-frozen/$(OTHER_PIP) --no-deps --force-reinstall .
	.venv-frozen/bin/python tests/by_hand/frozen_app.py build/frozen

clean:
	rm -rf .venv .venv-optimum .venv-llm .venv-frozen .venv-triton build dist *.egg-info integrations/*/build integrations/*/*.egg-info
