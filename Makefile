# Two commands matter: `make run` and `make test`. Both start from nothing and do no work twice.
#
# HOST, PORT, DATABASE_URL, PUBLIC_URL, TLS … come from the environment or from make's own command
# line: `make run PORT=9000 TLS=1`. README.md lists them.

.DEFAULT_GOAL := help
export
# Make's own variables must not leak into programs that read the environment.
unexport MAKEFLAGS MFLAGS MAKELEVEL

PYTHON := .venv/bin/python
# One process for each processor. Those that start servers have the machine to themselves instead.
SIDE_BY_SIDE := --numprocesses auto --dist loadfile -m 'not browser and not server'

.PHONY: help run staff backup restore test check lock audit licences sbom messages bench bench-10m bench-soak bench-warm bench-propagation bench-verdicts clean

help:
	@echo 'make run     serve the platform on http://127.0.0.1:8000 (PORT=, HOST=, TLS=1)'
	@echo 'make staff   make a staff account (asks, or takes EMAIL= and PASSWORD=; ROLE=support,'
	@echo '             security or administrator for one that may not do everything)'
	@echo 'make backup  back the database up while it is in use (TO=file or folder)'
	@echo 'make restore FROM=backup  put it back; TOMBSTONES="a b" in a fleet (docs/runbook.md)'
	@echo 'make test    run every test: units, PostgreSQL, browser, real ComfyUI clients'
	@echo 'make check   lint, types, architecture, deployment checks'
	@echo 'make bench   measure beside peers and floors (BENCH_SECONDS=, BENCH_ROUNDS=, BENCH_ROWS=)'
	@echo 'make bench-propagation  measure how soon machines hear of each other'
	@echo 'make lock    resolve requirements/*.txt anew'
	@echo 'make sbom    docs/licences.md and docs/sbom.json (CycloneDX), from what is locked'
	@echo 'make audit   ask for known vulnerabilities in what is locked (needs the internet)'
	@echo 'make messages  gather what is to be translated, and compile what is (needs gettext)'

run:
	@scripts/install runtime
	@exec $(PYTHON) -m config.serve

staff:
	@scripts/install runtime
	@$(PYTHON) manage.py migrate --verbosity 0
	@$(PYTHON) manage.py make_staff

backup:
	@scripts/install runtime
	@$(PYTHON) manage.py backup $(if $(TO),--to '$(TO)')

restore:
	@test -n '$(FROM)' || { echo 'Say which: make restore FROM=var/backups/….zip' >&2; exit 2; }
	@scripts/install runtime
	@$(PYTHON) manage.py restore '$(FROM)' $(foreach file,$(TOMBSTONES),--tombstones '$(file)') \
		$(if $(WITHOUT_PEPPER),--without-pepper) $(if $(WITHOUT_TOMBSTONES),--without-tombstones)

test:
	@scripts/install test
	@mkdir -p var
	@scripts/valkey >/dev/null
	@scripts/gateways >/dev/null
	@scripts/clients
	@$(PYTHON) -m pytest $(SIDE_BY_SIDE)
	@$(PYTHON) -m tests.postgres $(PYTHON) -m pytest $(SIDE_BY_SIDE)
	@CHROMIUM=$$(scripts/chromium) && export CHROMIUM && $(PYTHON) -m pytest -m 'browser or server'

check:
	@scripts/install test
	@scripts/check

lock:
	@scripts/install test
	@scripts/lock

# Needs the internet: asks an advisory database about all that is locked.
audit:
	@scripts/install runtime
	@scripts/audit vulnerabilities

# Both are committed, and have to follow requirements/runtime.txt.
licences:
	@scripts/install runtime
	@scripts/audit licences

sbom: licences
	@scripts/audit sbom

messages:
	@scripts/install test
	@$(PYTHON) manage.py makemessages --all --no-location --no-wrap --no-obsolete \
		--ignore '.*' --ignore tests --ignore var --ignore docs --ignore bench
	@$(PYTHON) manage.py compilemessages --ignore '.*'

bench:
	@scripts/install bench
	@scripts/bench-tools
	@$(PYTHON) -m bench.run

# A table of ten million keys: half an hour to fill, some gigabytes in the temporary folder.
bench-10m:
	@$(MAKE) --no-print-directory bench BENCH_ROWS='floor-wsgi,growth-*' BENCH_SIZES=1000,10000000

bench-soak:
	@scripts/install bench
	@scripts/bench-tools
	@$(PYTHON) -m bench.soak

bench-warm:
	@scripts/install bench
	@scripts/bench-tools
	@$(PYTHON) -m bench.warm

bench-propagation:
	@scripts/install bench
	@$(PYTHON) -m bench.propagation

bench-verdicts:
	@scripts/install bench
	@$(PYTHON) -m bench.verdicts

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
