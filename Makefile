# `make demo` and `make test` are all that a fresh machine needs: both fill .venv first and skip what is there.
PYTHON ?= python3
# Of `make lowest`.
PYTHON310 ?= $(shell python3.10 --version >/dev/null 2>&1 && echo python3.10 || echo $(PYTHON))
SEEDS ?= 0
RUN ?= runs/quickstart
RECIPE ?= when_stable_resnet20_cifar10
OVERLAY ?=
ARM ?=
JOBS ?= 4
PYTEST_ARGS ?=
ONLY ?=

BIN := .venv/bin

.PHONY: demo test lowest torture docs bench bench-gpu screenshots evidence evidence-gpu clean

demo: .venv/.installed-demo
	$(BIN)/lightning-lottery run recipes/quickstart --seeds $(SEEDS) --jobs 2

test: .venv/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

# The suite on the oldest releases that pyproject.toml allows (tests/lowest.txt), in an environment of their own.
lowest: .venv-lowest/.installed
	.venv-lowest/bin/python -m pytest -n 2 $(PYTEST_ARGS)

# Whole products and campaigns (marked `torture`), or a part as in `make torture PYTEST_ARGS=tests/foreign`.
torture: .venv/.installed-test
	$(BIN)/python -m pytest -m torture $(PYTEST_ARGS)

# README, the tutorial, the recipes and the reference of every public name, as pages: build/docs/index.html.
docs: .venv/.installed-docs
	$(BIN)/python .github/docs/build.py build/docs

# All of tests/benchmarks, or as in `make bench ONLY="platon shrink"`; keep the machine idle meanwhile.
bench: .venv/.installed-test
	PYTHONPATH=tests $(BIN)/python -W ignore -m benchmarks.table $(ONLY)

# Twelve minutes on one GPU: the table is in build/bench-gpu.md as far as it got. Without a GPU a trial at toy sizes.
bench-gpu: .venv/.installed-test
	PYTHONPATH=tests $(BIN)/python -W ignore -m benchmarks.on_gpu

# What TensorBoard shows of a run, in RUN/screenshots; needs Chromium (tests/screenshots.py says more).
screenshots: .venv/.installed-demo
	$(BIN)/python tests/screenshots.py $(RUN)

# Keeps what RUN measured beside its recipe, where tests compare the pages with it; ARM names a run of the same stages otherwise.
evidence: .venv/.installed-demo
	$(BIN)/python tests/evidence.py $(RUN) $(ARM)

# Twelve minutes of one recipe at its published size; the same line goes on from there. OVERLAY names, say, the data.
evidence-gpu: .venv/.installed-demo
	timeout 720 $(BIN)/lightning-lottery run recipes/$(RECIPE) $(if $(OVERLAY),--overlay $(OVERLAY)) --jobs $(JOBS)
	$(BIN)/python tests/evidence.py runs/$(RECIPE)

# runs/ stays: it holds results.
clean:
	rm -rf .venv .venv-lowest .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find lightning_lottery tests recipes -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed-demo: EXTRAS := demo
.venv/.installed-docs: EXTRAS := demo,docs
.venv/.installed-test: EXTRAS := demo,test

# A stamp is written last, so a failed install is tried again. Every install holds the demo.
.venv/.installed-%: pyproject.toml | .venv/bin/pip
	@echo "Installing lightning_lottery[$(EXTRAS)] into .venv: minutes and some GB the first time."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch .venv/.installed-demo $@

# venv writes bin/pip when the rest works: a half-made environment is made again.
.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("lightning_lottery needs Python 3.10 or newer, but $(PYTHON) is %d.%d: say which one to use, as in `make $(MAKECMDGOALS) PYTHON=python3.12`." % sys.version_info[:2])'
	$(PYTHON) -m venv .venv

.venv-lowest/.installed: pyproject.toml tests/lowest.txt | .venv-lowest/bin/pip
	@echo "Installing the releases of tests/lowest.txt into .venv-lowest: minutes and some GB the first time."
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check --constraint tests/lowest.txt --editable '.[demo,shrink,dask,test]'
	@touch $@

# Wheels of the oldest releases end at Python 3.12.
.venv-lowest/bin/pip:
	@$(PYTHON310) -c 'import sys; (3, 10) <= sys.version_info < (3, 13) or sys.exit(1); print("The lowest releases are tested on Python %d.%d." % sys.version_info[:2])' \
		|| { echo "\`make lowest\` needs Python 3.10 (or 3.11, 3.12), and $(PYTHON310) is none: say which one to use, as in \`make lowest PYTHON310=python3.11\`."; exit 1; }
	$(PYTHON310) -m venv .venv-lowest
