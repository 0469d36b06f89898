# `make run` and `make test` are the two that matter. Both start from nothing and do no work twice.
#
# HOST, PORT, DATABASE_URL, PUBLIC_URL, TLS … come from the environment or from make's own command
# line: `make run PORT=9000 TLS=1`. README.md lists them. `make help` prints each target below with
# the text after its `##`.

.DEFAULT_GOAL := help
export
# Make's own variables must not leak into programs that read the environment.
unexport MAKEFLAGS MFLAGS MAKELEVEL

PYTHON := .venv/bin/python
.PHONY: help run dev staff backup restore test test-fast test-comfyui coverage screenshots mutants coherence fleet test-fleet behaviours check lock audit licences sbom settings-doc messages bench bench-10m bench-soak bench-warm bench-propagation bench-verdicts bench-pages bench-retention install lint-deploy clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-18s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

run: ## serve the platform on http://127.0.0.1:8000 (PORT=, HOST=, TLS=1)
	@scripts/install runtime
	@exec $(PYTHON) manage.py serve

# Its database and secrets are apart from those of `make run`. All settings can be set as there.
dev: export DEBUG := 1
dev: export PYTHONUNBUFFERED := 1
dev: export VAR_DIR := $(or $(VAR_DIR),var/dev)
dev: ## serve with reload and DEBUG on, for development (PORT=; files in var/dev)
	@scripts/install test
	@mkdir -p -m 700 var
	@$(PYTHON) -m server.migrate
	@exec $(PYTHON) manage.py runserver "$(or $(HOST),127.0.0.1):$(or $(PORT),8000)"

staff: ## create a staff account (asks, or EMAIL= PASSWORD= ROLE=support|security|administrator)
	@scripts/install runtime
	@$(PYTHON) -m server.migrate
	@$(PYTHON) manage.py make_staff

backup: ## back up the database while it is in use (TO=file or folder)
	@scripts/install runtime
	@$(PYTHON) manage.py backup $(if $(TO),--to '$(TO)')

restore: ## restore a backup: FROM=backup, with TOMBSTONES="a b" for a cluster (docs/runbook.md)
	@test -n '$(FROM)' || { echo 'Name the backup: make restore FROM=var/backups/….zip' >&2; exit 2; }
	@scripts/install runtime
	@$(PYTHON) manage.py restore '$(FROM)' $(foreach file,$(TOMBSTONES),--tombstones '$(file)') \
		$(if $(WITHOUT_PEPPER),--without-pepper) $(if $(WITHOUT_TOMBSTONES),--without-tombstones) \
		$(if $(WITHOUT_SECRET_KEY),--without-secret-key)

test: ## run every test: units, PostgreSQL, browser, real ComfyUI clients
	@scripts/install test
	@mkdir -p -m 700 var
	@scripts/valkey >/dev/null
	@scripts/pgbouncer >/dev/null
	@scripts/gateways >/dev/null
	@scripts/node >/dev/null
	@scripts/clients
	@scripts/test

test-fast: ## run the tests that need no server and no browser, on SQLite
	@scripts/install test
	@scripts/test fast

test-comfyui: ## run an unmodified ComfyUI server with a login: COMFYUI=/path/to/a/checkout
	@test -n '$(COMFYUI)' || { echo 'Name a checkout of ComfyUI: make test-comfyui COMFYUI=/path' >&2; exit 2; }
	@scripts/install test
	@mkdir -p -m 700 var
	@scripts/gateways >/dev/null
	@scripts/comfyui
	@unset PYTHONDONTWRITEBYTECODE && CHROMIUM="$$(scripts/chromium)" $(PYTHON) -m pytest -q -n0 tests/comfyui

coverage: ## run every test and print the branch coverage
	@scripts/install test
	@scripts/test coverage

screenshots: ## take the pictures of README.md and docs/ anew (docs/screenshots/)
	@scripts/install test
	@CHROMIUM="$$(scripts/chromium)" $(PYTHON) -m pytest -q -n0 tests/browser/test_screenshots.py -k fit_into
	@for picture in docs/screenshots/*.png; do \
		text="$${picture%.png}.txt"; \
		cp "var/screenshots/docs/$${picture##*/}" "$$picture"; \
		cp "var/screenshots/docs/$${text##*/}" "$$text"; \
	done

mutants: ## change the code in one place at a time, and count what the tests notice (hours)
	@scripts/install test
	@scripts/install mutants
	@unset PYTHONDONTWRITEBYTECODE && $(PYTHON) -m scripts.mutants

coherence: ## revoke keys under load, a thousand rounds of each way (hours; COHERENCE_ROUNDS=)
	@scripts/install test
	@COHERENCE_ROUNDS="$${COHERENCE_ROUNDS:-1000}" $(PYTHON) -m tests.postgres --not-durable \
		$(PYTHON) -m pytest tests/live/test_coherence.py

fleet test-fleet: export PYTHONUNBUFFERED := 1
fleet: ## start a cluster: three instances, PostgreSQL with a replica, PgBouncer, cache, HAProxy
	@scripts/install test
	@mkdir -p -m 700 var
	@scripts/valkey >/dev/null
	@scripts/pgbouncer >/dev/null
	@scripts/gateways >/dev/null
	@unset PYTHONDONTWRITEBYTECODE && exec $(PYTHON) -m tests.cluster

test-fleet: ## restart, upgrade, kill and cut off parts of a cluster under load (FLEET_SHORT=1)
	@scripts/install test
	@mkdir -p -m 700 var
	@scripts/valkey >/dev/null
	@scripts/pgbouncer >/dev/null
	@scripts/gateways >/dev/null
	@unset PYTHONDONTWRITEBYTECODE && exec $(PYTHON) -m tests.cluster test

behaviours: ## list the behaviours that the tests hold, by folder
	@python3 scripts/behaviours.py

check: ## lint, types, architecture, words, deployment checks
	@scripts/install test
	@scripts/check

lock: ## resolve requirements/*.txt again
	@scripts/install test
	@scripts/lock

audit: ## look up known vulnerabilities of the locked packages (needs the internet)
	@scripts/install runtime
	@scripts/audit vulnerabilities

# Both files are committed. Write them again whenever requirements/runtime.txt changes.
licences: ## write docs/licences.md from the locked packages
	@scripts/install runtime
	@scripts/audit licences

sbom: licences ## write docs/licences.md and docs/sbom.json (CycloneDX) from the locked packages
	@scripts/audit sbom

settings-doc: ## write docs/settings.md from the settings
	@scripts/install runtime
	@$(PYTHON) scripts/settings_doc.py

# LANGUAGES in platform/config/settings/static_files.py.
LOCALES := zh_Hans zh_Hant ja ko es fr de pt_BR ru tr ar

messages: ## collect the strings to translate and compile the catalogs (needs gettext)
	@scripts/install test
	@$(PYTHON) manage.py makemessages $(LOCALES:%=--locale %) --no-location --no-wrap --no-obsolete \
		--ignore '.*' --ignore tests --ignore var --ignore docs --ignore bench
	@$(PYTHON) manage.py compilemessages --ignore '.*'

bench: ## measure beside peers and floors (BENCH_SECONDS=, BENCH_ROUNDS=, BENCH_ROWS=)
	@scripts/install bench
	@scripts/bench-tools
	@$(PYTHON) -m bench.run

bench-10m: ## the same with a table of ten million keys (half an hour, some gigabytes)
	@$(MAKE) --no-print-directory bench BENCH_ROWS='floor-wsgi,growth-*' BENCH_SIZES=1000,10000000

bench-soak: ## measure memory over a long run
	@scripts/install bench
	@scripts/bench-tools
	@$(PYTHON) -m bench.soak

bench-warm: ## measure the first requests after a restart
	@scripts/install bench
	@scripts/bench-tools
	@$(PYTHON) -m bench.warm

bench-propagation: ## measure how soon a change reaches the other hosts
	@scripts/install bench
	@$(PYTHON) -m bench.propagation

bench-pages: ## fill tables with millions of rows, and measure each page, list and search (FILL_KEYS=…)
	@scripts/install bench
	@$(PYTHON) -m bench.pages

bench-verdicts: ## measure the memory of the cached responses
	@scripts/install bench
	@$(PYTHON) -m bench.verdicts

bench-retention: ## measure the sizes of tables, and what a cleanup delays (BENCH_RETENTION_ROWS=)
	@scripts/install bench
	@$(PYTHON) -m bench.retention

install: ## install the service into PREFIX (/opt/comfyui-keys), with its systemd units (docs/install.md)
	@scripts/install-service "$(or $(PREFIX),/opt/comfyui-keys)"

lint-deploy: ## lint Dockerfile, deploy/kubernetes and deploy/prometheus with their own linters
	@scripts/install test
	@scripts/lint-deploy

clean: ## delete .venv and the caches of the tools
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
