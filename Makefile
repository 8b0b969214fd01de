# Each target builds .venv when it is missing or when the pins changed.
PYTHON ?= python3
export DAGSTER_HOME := $(CURDIR)/.dagster_home
# Python compiles modules when it first imports them. Compiling all of torch at once would take a minute.
INSTALL := -m pip install --quiet --no-compile
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin

.PHONY: run demo practice test test-fast ui serve lint reference docs bench screenshots page emulator lock hashes test-lowest clean

# Dagster runs everything for a selection that names nothing: `booru-embed build` refuses one, and shows what it runs.
# All keys rather than '*': the export and the settings are observed too, so that Dagster knows what is stale.
run: .venv/.installed  ## everything: export to trained embedder, evaluation and report
	$(BIN)/dg launch --assets 'key:"*"'
	@$(BIN)/python -c 'from booru_embed_core.settings import load_settings; \
		print(f"Report: {load_settings().warehouse_path.resolve()}/evaluation/current/report.md")'

demo: export BOORU_EMBED_SETTINGS := $(CURDIR)/data/sample/quick.toml
demo: run  ## a quick look: two passes of training, then the page
	$(BIN)/booru-embed serve

# EXPORT may be a pattern. SETTINGS names a file whose [posts] and [vocab] are taken, such as one with a preset.
practice: .venv/.installed  ## your own export through every asset in less than an hour, in data/practice
	@$(BIN)/python -m booru_embed_dagster.practice $(if $(SETTINGS),--settings '$(SETTINGS)') '$(EXPORT)'

# Three workers for two cores: those that run servers wait most of the time.
test: .venv/.installed  ## the whole suite
	$(BIN)/pytest -n 3 --dist worksteal

test-fast: .venv/.installed  ## what one runs while editing: under two minutes on two cores
	$(BIN)/pytest -n 2 --dist worksteal -m 'not slow' --hypothesis-profile fast

ui: .venv/.installed  ## Dagster's UI at http://127.0.0.1:3000
	$(BIN)/dagster dev -w workspace.yaml

serve: .venv/.installed  ## the page and the API at http://127.0.0.1:8010, after make run
	$(BIN)/booru-embed serve

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

reference: .venv/.installed  ## docs/reference/api.md and cli.md, from docstrings and help texts
	$(BIN)/python docs/generate_reference.py

docs: .venv-docs/.installed  ## the docs site, in site/; a warning, such as a link to nowhere, fails
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

# An environment of its own: building the site needs nothing of the package, and takes seconds to install.
.venv-docs/.installed: docs/requirements.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python $(INSTALL) --requirement $<
	@touch $@

bench: .venv/.installed
	$(BIN)/python -m benchmarks

screenshots: .venv/.installed  ## docs/images of Dagster's UI and of the page; needs chromium and what `make run` makes
	$(BIN)/pytest tests/dagster/ui/screenshots.py tests/ui/page_screenshots.py

page: booru_embed_core/web/page/node_modules/.package-lock.json  ## the page that `booru-embed serve` shows; needs node
	npm --prefix booru_embed_core/web/page run build

booru_embed_core/web/page/node_modules/.package-lock.json: booru_embed_core/web/page/package-lock.json
	npm --prefix booru_embed_core/web/page ci --ignore-scripts --no-audit --no-fund
	@touch $@

emulator: .venv-emulator/.installed  ## what the tests of the BigQuery source need, else they are skipped

# A home of its own: DuckDB keeps its extensions below the user's.
.venv-emulator/.installed: tests/emulator-requirements.txt
	$(PYTHON) -m venv .venv-emulator
	.venv-emulator/bin/python $(INSTALL) --requirement $<
	mkdir -p .venv-emulator/home
	HOME=$(CURDIR)/.venv-emulator/home .venv-emulator/bin/python -c \
		'import duckdb_extensions; duckdb_extensions.import_extension("spatial")'
	@touch $@

# What a distribution's hash covers is installed as locked. torch is left to the index, which serves builds for CPUs or
# for CUDA. An index with builds of its own has other hashes: make LOCK= installs by version alone.
LOCK ?= requirements.lock
.venv/.installed: pyproject.toml constraints.txt requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "booru-embed needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(if $(LOCK),$(BIN)/python $(INSTALL) --no-deps --require-hashes --requirement $(LOCK))
	$(BIN)/python $(INSTALL) $(if $(LOCK),--no-build-isolation) --constraint constraints.txt --editable '.[dag,dev]'
	@touch $@

test-lowest: .venv-lowest/.installed  ## the quick tests with the oldest releases that pyproject.toml allows
	.venv-lowest/bin/pytest -n 2 --dist worksteal -m 'not slow' --hypothesis-profile fast

.venv-lowest/.installed: pyproject.toml | .venv/.installed
	$(PYTHON) -m venv .venv-lowest
	$(BIN)/uv pip compile --no-config --quiet --resolution lowest-direct --no-annotate --no-header \
		--extra dag --extra dev --output-file .venv-lowest/lowest.txt pyproject.toml
	.venv-lowest/bin/python $(INSTALL) --constraint .venv-lowest/lowest.txt --editable '.[dag,dev]'
	@touch $@

lock:  ## writes constraints.txt and the locks anew from the newest versions that pyproject.toml allows
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/python $(INSTALL) --editable '.[dag,dev]'
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt
	$(MAKE) hashes
	@touch .venv/.installed

# uv keeps what is in the output file, so the same constraints.txt gives the same locks. No host of an index is named.
hashes:  ## writes the locks with hashes, for all platforms, from the versions in constraints.txt
	cat requirements.lock requirements-torch.lock > .venv/all.lock
	$(BIN)/uv pip compile --no-config --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
		--no-header --no-emit-index-url --extra dag --extra dev --constraint constraints.txt \
		--output-file .venv/all.lock pyproject.toml
	awk '/^[a-z]/ {is_torch = /^(torch|triton|nvidia-|cuda-)/} \
		{print > (is_torch ? "requirements-torch.lock" : "requirements.lock")}' .venv/all.lock

clean:
	rm -rf .venv .venv-docs .venv-emulator .venv-lowest site .dagster_home/storage .dagster_home/history .dagster_home/schedules .dagster_home/logs data/warehouse data/*/warehouse
