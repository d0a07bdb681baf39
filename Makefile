# The only entry points of CI, hooks and README. Every target sets up what it needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.installed
CSRC := $(wildcard src/empool/csrc/*)
OUT ?= runs/demo

.PHONY: help setup demo test test-pure check format docs bench audit sanitize mutants clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(SETUP)  ## make the virtual environment with empool and all its extras

# What the extra `imagenet` adds is for the tests alone, and beside the environment: torchvision's build on PyPI cannot
# be imported on a PyTorch without CUDA, nor then PyTorch Lightning, which imports torchvision wherever it finds it.
$(SETUP): pyproject.toml constraints.txt setup.py $(CSRC)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip setuptools wheel ninja torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[lab,dev]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --upgrade --target $(VENV)/imagenet \
		safetensors timm torchvision
	touch $@

# Network and epochs are those of max-pooling's errors on held-out training images (docs/results.md).
demo: $(SETUP)  ## compare three poolings on photographs: about 3 minutes on two cores
	$(BIN)/empool compare --data cifar10-mini --model cnn --recipe width=16 --epochs 20 --batch-size 64 --augment none \
		--poolings max,ensemble:0.4,max-dropout:0.4 --seeds 8 --device cpu --jobs 2 --out $(OUT)

# One process a core, a file each at a time, so that what its tests share is made once, and in the order of their names:
# the last files are short. One thread in each.
PYTEST := $(BIN)/python -m pytest -q --timeout 900 --numprocesses auto --dist loadfile --no-loadscope-reorder

test: $(SETUP)  ## run every test
	OMP_NUM_THREADS=1 EMPOOL_REQUIRE=cpu,triton $(PYTEST)

test-pure: $(SETUP)  ## run every test but Ray's without the compiled extension
	OMP_NUM_THREADS=1 EMPOOL_EXTENSION=0 $(PYTEST) --ignore tests/test_lab_cluster.py

check: $(SETUP)  ## format, lint and type-check, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/clang-format --dry-run --Werror $(filter %.h %.cpp,$(CSRC))

format: $(SETUP)  ## format everything
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(filter %.h %.cpp,$(CSRC))

docs: $(SETUP)  ## build the pages of docs/ as a site, in build/docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet --fresh-env --write-all docs build/docs
	@echo "docs: build/docs/index.html"

audit: $(SETUP)  ## check that the extension needs PyTorch's stable ABI alone
	@test -e src/empool/_C.abi3.so || { echo "audit: the extension is not built"; exit 1; }
	@if nm --dynamic --demangle --undefined-only src/empool/_C.abi3.so | grep -E ' (at|c10|torch)::'; \
	then echo "audit: the symbols above are not in PyTorch's stable ABI"; exit 1; \
	else echo "audit: no at::, c10:: or torch:: symbol is needed"; fi

sanitize: $(SETUP)  ## run the kernel tests under AddressSanitizer and UndefinedBehaviorSanitizer
	rm -rf build/sanitize && mkdir -p build/sanitize
	cp -r src setup.py pyproject.toml README.md LICENSE build/sanitize/ && rm -f build/sanitize/src/empool/_C*
	cd build/sanitize && EMPOOL_SANITIZE=address,undefined $(abspath $(BIN))/python setup.py --quiet build_ext --inplace
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
	EMPOOL_REQUIRE=cpu PYTHONPATH=build/sanitize/src $(BIN)/python -m pytest -q --timeout 900 tests/test_kernels.py

# In a copy, since the mutants are written over the files. What it has done it keeps: it can be stopped and started again.
mutants: $(SETUP)  ## count the changes of the core that no test notices; takes hours
	$(BIN)/python -m pip install --quiet --constraint constraints.txt cosmic-ray
	mkdir -p build/mutants && cp -r src tests pyproject.toml build/mutants/
	cd build/mutants && export PATH=$(abspath $(BIN)):$$PATH PYTHONPATH=src OMP_NUM_THREADS=1 && \
	{ test -e mutants.sqlite || { cosmic-ray init tests/mutants.toml mutants.sqlite && \
	cr-filter-operators mutants.sqlite tests/mutants.toml; }; } && \
	cosmic-ray baseline tests/mutants.toml && cosmic-ray exec tests/mutants.toml mutants.sqlite && \
	cr-report --surviving-only --show-diff mutants.sqlite

bench: $(SETUP)  ## time the operators against max-pooling
	$(BIN)/empool bench

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist src/*.egg-info src/empool/*.so
