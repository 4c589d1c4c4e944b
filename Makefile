# What people and CI call. `make` alone lists the targets.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check fix bench chaos lock clean
PYTEST_WORKERS ?= 3
DEMO ?=
BENCH ?=
QUICK ?=
CHAOS ?= --events 2000 --faults 200

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: ## install what running the service needs into .venv
	@scripts/setup.sh run

demo: setup ## convert a real image on this machine, from webhook to lazy read (DEMO=--keep leaves it running)
	@.venv/bin/ics demo $(DEMO)

test: ## install what the tests need, check the code, run every test
	@scripts/setup.sh dev
	@$(MAKE) --no-print-directory check
	@[ -n "$(TESTS)" ] || .venv/bin/python scripts/audit.py
	.venv/bin/python -m pytest -n $(PYTEST_WORKERS) --dist loadgroup --cov --cov-report= $(TESTS)
	@[ -n "$(TESTS)" ] || .venv/bin/python scripts/coverage_gate.py

check: ## lint, formatting, types, import arrows, the C code, and the built wheel
	.venv/bin/ruff check .
	.venv/bin/ruff format --check -q .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache >/dev/null || .venv/bin/lint-imports --no-cache
	scripts/check_wheel.sh

fix: ## format, and mend what can be mended
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: ## measure everything and write benchmarks/REPORT.md (BENCH="scaling --rounds 5", QUICK=1 to try it out)
	@scripts/setup.sh dev
	.venv/bin/python -m benchmarks $(if $(QUICK),--quick) $(BENCH)

chaos: ## the long fault run on both brokers (CHAOS="--events 5000 --faults 500")
	@scripts/setup.sh dev
	.venv/bin/python -m tests.faults $(CHAOS)

lock: ## resolve the dependencies anew
	uv pip compile -q --universal --upgrade --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml -o requirements.lock
	uv pip compile -q --universal --upgrade --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml --group dev -o requirements-dev.lock

clean: ## remove what was set up and made here
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* dist var drivers/reencoding/_native.so
