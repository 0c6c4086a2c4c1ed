# `make` alone lists the targets. Everything runs in .venv, which `make install` builds.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODEL ?= qwen2.5-coder-1.5b
PAPER_TASKS ?= method_innovation,experiment_flaws
TORCH ?= torch==2.13.0
LMEVAL ?= .venv-lm-eval
TEXT ?= text
export PYTHONDONTWRITEBYTECODE = 1

.DEFAULT_GOAL := help
.PHONY: check-native-arm help install demo train-tiny test test-large check format bench-inference bench-papers bench-extraction bench-evaluation bench-lm-eval bench-kernels bench-invariance bench-engine bench-soak bench-accuracy bench-long-context bench-far-peer bench-long-accuracy bench-routing bench-memory bench-moe bench-moe-training bench-training bench-precision bench-data bench-entropy bench-tuning bench-hard-cases bench-forgetting check-native clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

install: $(VENV)/.dev  ## create .venv with everything that development needs

$(VENV)/.base: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[papers]"
	@touch $@

$(VENV)/.recipes: $(VENV)/.base
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[recipes]"
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[dev]"
	@touch $@

$(VENV)/.peers: $(VENV)/.dev
	CMAKE_ARGS="-DGGML_NATIVE=ON" $(BIN)/python -m pip install -q --disable-pip-version-check -e ".[peers,ray]"
	@touch $@

demo: $(VENV)/.base  ## analyse a real paper (MODEL=smollm2-135m is quicker)
	$(BIN)/deepseek pull $(MODEL)
	$(BIN)/deepseek pull paper-attention
	@mkdir -p out
	$(BIN)/deepseek papers analyze paper-attention --tasks $(PAPER_TASKS) --model $(MODEL) --out out/report.html

train-tiny: $(VENV)/.recipes  ## train a tiny model from nothing, and chat with it (a quarter of an hour; goes on where it stopped)
	$(BIN)/python recipes/train_tiny.py $(TINY_ARGS)

test: $(VENV)/.dev  ## run the tests (pulls smollm2-135m, about 100 MB, once)
	$(BIN)/python -m pytest -m "not large and not oracle"

test-large: $(VENV)/.peers  ## run all tests, also against llama.cpp and with the 1.5 B model
	$(BIN)/python -m pytest

check: $(VENV)/.dev  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## rewrite the files in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-inference: $(VENV)/.peers  ## prefill and decode beside llama.cpp
	$(BIN)/python benchmarks/inference.py

bench-kernels: $(VENV)/.peers  ## the kernels beside llama.cpp (half an hour; IK=… is llama-bench of ik_llama.cpp)
	$(BIN)/python benchmarks/kernels.py $(if $(IK),--ik "$(IK)") $(KERNELS_ARGS)

bench-invariance: $(VENV)/.dev  ## what equal bits cost: two builds of the library in turns (a quarter of an hour)
	cmake -S native -B build/fixed -DCMAKE_BUILD_TYPE=Release
	cmake -S native -B build/free -DFREE_ORDER=ON -DCMAKE_BUILD_TYPE=Release
	cmake --build build/fixed
	cmake --build build/free
	$(BIN)/python benchmarks/invariance.py $(INVARIANCE_ARGS)

bench-engine: $(VENV)/.peers  ## the engine at work (hours; each part keeps its rows; LLAMA_SERVER=… is llama.cpp's llama-server)
	$(BIN)/python benchmarks/engine.py $(if $(LLAMA_SERVER),--server "$(LLAMA_SERVER)") $(ENGINE_ARGS)

bench-soak: $(VENV)/.dev  ## 10,000 mixed requests: nothing leaks, hangs or comes out wrong (half an hour)
	$(BIN)/python benchmarks/soak.py $(SOAK_ARGS)

bench-accuracy: $(VENV)/.peers  ## what int8 costs beside llama.cpp (hours; goes on where it stopped)
	$(BIN)/python benchmarks/accuracy.py $(ACCURACY_ARGS)

bench-long-context: $(VENV)/.dev  ## pass keys and speed far beyond the trained length (an hour)
	$(BIN)/python benchmarks/long_context.py $(LONG_CONTEXT_ARGS)

bench-far-peer: $(VENV)/.peers  ## 32,000 tokens beside llama.cpp (half an hour)
	$(BIN)/python benchmarks/far_peer.py $(FAR_PEER_ARGS)

bench-long-accuracy: $(VENV)/.peers  ## what hierarchical attention keeps of dense (hours; goes on where it stopped)
	$(BIN)/python benchmarks/long_accuracy.py $(LONG_ACCURACY_ARGS)
	$(BIN)/python benchmarks/far_needles.py $(FAR_NEEDLES_ARGS)

bench-moe: $(VENV)/.peers  ## what layers of experts cost beside dense ones and beside transformers' (2 minutes)
	$(BIN)/python benchmarks/moe.py $(MOE_ARGS)

bench-moe-training: $(VENV)/.dev  ## mixtures trained for real: loads, quality, sizes, fewer experts (hours; goes on where it stopped)
	$(BIN)/python benchmarks/moe_training.py $(MOE_ARGS)

bench-training: $(VENV)/.dev  ## a curriculum beside the same windows shuffled, cleaned texts beside raw ones (half an hour; goes on where it stopped)
	$(BIN)/python benchmarks/training.py $(TRAINING_ARGS)

bench-precision: $(VENV)/.dev  ## FP8's losses beside bfloat16's, and bfloat16's speed of training beside float32's (a quarter of an hour)
	$(BIN)/python benchmarks/precision.py $(PRECISION_ARGS)

bench-entropy: $(VENV)/.dev  ## does semantic entropy tell wrong answers? beside length, log-probability, p(True) (5 minutes)
	$(BIN)/python benchmarks/semantic_entropy.py $(ENTROPY_ARGS)

bench-tuning: $(VENV)/.dev  ## LoRA beside PEFT on transformers: speed, memory, loss (3 minutes)
	$(BIN)/python benchmarks/tuning.py $(TUNING_ARGS)

bench-hard-cases: $(VENV)/.dev  ## what is learned from hard cases, on held-out ones (half an hour; goes on where it stopped)
	$(BIN)/python benchmarks/hard_cases.py $(HARD_CASES_ARGS)

bench-forgetting: $(VENV)/.dev  ## what a narrow domain makes a model forget, with and without general data (half an hour; goes on where it stopped)
	$(BIN)/python benchmarks/forgetting.py $(FORGETTING_ARGS)

bench-memory: $(VENV)/.dev  ## computed and measured peaks of memory in each format of the cache, and with a draft model and an adapter (4 minutes)
	$(BIN)/python benchmarks/memory_budget.py

bench-routing: $(VENV)/.dev  ## train a router on TEXT=folder and measure it (an hour; goes on where it stopped)
	$(BIN)/python benchmarks/routing.py --text "$(TEXT)" $(ROUTING_ARGS)

bench-data: $(VENV)/.dev  ## the data pipeline beside datatrove on TEXT=folder, planted junk in PROSE=folder (10 minutes)
	$(BIN)/python -m pip install -q --disable-pip-version-check "datatrove==0.10.1" "spacy==3.8.18" orjson
	$(BIN)/python benchmarks/data_pipeline.py "$(TEXT)" $(if $(PROSE),--prose "$(PROSE)") $(DATA_ARGS)

bench-papers: $(VENV)/.dev  ## paper analysis on ground truth: NCG_TRAIN=… NCG_TEST=… PDFS="a.pdf b.pdf"
	$(BIN)/python benchmarks/papers.py $(if $(NCG_TRAIN),--ncg-train "$(NCG_TRAIN)") \
	  $(if $(NCG_TEST),--ncg-test "$(NCG_TEST)") $(if $(PDFS),--pdfs $(PDFS))

bench-extraction: $(VENV)/.dev  ## text extraction beside pdftotext: PDFS="a.pdf b.pdf"
	$(BIN)/python benchmarks/extraction.py $(PDFS)

check-native: $(VENV)/.dev  ## the kernels' tests under the address and undefined-behaviour sanitisers
	cmake -S native -B build/sanitised -DSANITIZE=ON -DVNNI_AS_AVX512=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo
	cmake --build build/sanitised
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
	  DEEPSEEK_NATIVE=build/sanitised/deepseek_native.so $(BIN)/python -m pytest tests/ops/test_native.py \
	  tests/ops/test_native_model.py tests/ops/test_native_hierarchy.py tests/ops/test_native_cold.py \
	  tests/ops/test_native_adapter.py tests/ops/test_native_mixture.py tests/ops/moe/test_native_experts.py \
	  tests/ops/test_page_file.py

check-native-arm:  ## the Arm kernels in an emulator (needs g++-aarch64-linux-gnu, qemu-user-static)
	cmake -S native -B build/arm -DLEVEL_TEST=ON -DCMAKE_BUILD_TYPE=Release -DCMAKE_SYSTEM_NAME=Linux \
	  -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
	cmake --build build/arm
	qemu-aarch64-static -L /usr/aarch64-linux-gnu build/arm/level_test

bench-lm-eval: $(VENV)/.dev $(LMEVAL)/.ready  ## the same items through lm-eval with transformers
	$(BIN)/python benchmarks/lm_eval_parity.py --peer $(LMEVAL)/bin/python

# lm-eval needs other versions of what we need: it gets an environment of its own.
$(LMEVAL)/.ready:
	$(PYTHON) -m venv $(LMEVAL)
	$(LMEVAL)/bin/python -m pip install -q --disable-pip-version-check "$(TORCH)" transformers==5.24.0 lm-eval==0.4.13
	@touch $@

bench-evaluation: $(VENV)/.dev  ## public scores of both checkpoints (hours; goes on where it stopped)
	$(BIN)/python benchmarks/evaluation.py $(EVALUATION_ARGS)

clean:  ## remove what was built (not the weights)
	rm -rf $(VENV) $(LMEVAL) build dist out .mypy_cache .ruff_cache .pytest_cache
