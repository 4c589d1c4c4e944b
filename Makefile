# The targets that people and CI call. `make` alone lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
.PHONY: help demo test check bench chaos setup lock clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10
