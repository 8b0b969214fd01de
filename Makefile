# Each target builds .venv when it is missing or when the pins changed.
PYTHON ?= python3
export DAGSTER_HOME := $(CURDIR)/.dagster_home
# Python compiles what is imported, once, for which it must be let write: compiling all of torch takes a minute.
INSTALL := -m pip install --quiet --no-compile
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin

.PHONY: run demo test ui serve lint bench screenshots page emulator lock clean

# All keys rather than '*': the export and the settings are observed too, so that Dagster knows what is out of date.
run: .venv/.installed  ## everything: export to trained embedder, evaluation and report
	$(BIN)/dg launch --assets 'key:"*"'
	@$(BIN)/python -c 'from booru_embed_core.settings import load_settings; \
		print(f"Report: {load_settings().warehouse_path.resolve()}/evaluation/current/report.md")'

demo: export BOORU_EMBED_SETTINGS := $(CURDIR)/data/sample/quick.toml
demo: run  ## a quick look: two passes of training, then the page
	$(BIN)/booru-embed serve

test: .venv/.installed
	$(BIN)/pytest -n 2 --dist worksteal

ui: .venv/.installed  ## Dagster's UI at http://127.0.0.1:3000
	$(BIN)/dagster dev -w workspace.yaml

serve: .venv/.installed  ## the page and the API at http://127.0.0.1:8010, after make run
	$(BIN)/booru-embed serve

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

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

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "booru-embed needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python $(INSTALL) --constraint constraints.txt --editable '.[dag,dev]'
	@touch $@

lock: ## writes constraints.txt anew from the newest versions that pyproject.toml allows
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/python $(INSTALL) --editable '.[dag,dev]'
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean:
	rm -rf .venv .venv-emulator .dagster_home/storage .dagster_home/history .dagster_home/schedules .dagster_home/logs data/warehouse data/*/warehouse
