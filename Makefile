# make train   trains, tests and draws on a dataset of drawn people
# make test    runs the test suite
# make check   checks format, lint and types, and runs the quick tests
#
# Each installs what it needs first. PYTHON=python3.12 chooses the interpreter of the virtual environment.
# All paths are relative, because make cannot handle spaces in the path of the checkout.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
JOBS ?= 2

# Without a GPU, build only the CPU kernels, which takes seconds instead of minutes, unless FORCE_CUDA=1.
ifeq ($(FORCE_CUDA)$(shell command -v nvidia-smi),)
export FORCE_CPU := 1
endif

CSRC := $(shell find maskrcnn_benchmark/csrc -type f ! -name "*.md" 2>/dev/null)
CLANG_FORMAT := $(VENV)/bin/clang-format
CLANG_FORMATTED := $(CSRC) $(wildcard tests/cuda_emulation/*.h tests/cuda_emulation/*.cpp)
INSTALLED := $(VENV)/.installed
PEOPLE := datasets/people
PEOPLE_ANNOTATIONS := $(PEOPLE)/annotations/person_keypoints_val.json
TRAIN_IMAGES ?= 1000
VAL_IMAGES ?= 100
TRAIN_CONFIG := configs/quick/hrnet_refine_people.yaml
TRAIN_OUTPUT := output/people
TRAIN_RESULTS := $(TRAIN_OUTPUT)/inference/people_val/results.txt

.PHONY: install data train test check lint format cuda clean

install: $(INSTALLED)

$(INSTALLED): setup.py pyproject.toml $(CSRC)
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip "setuptools>=77" wheel ninja
	$(RUN) -m pip install --quiet "torch>=2.10" torchvision
	$(RUN) -m pip install --quiet --no-build-isolation --editable ".[dev]"
	# Without libGL, use OpenCV's build without windows.
	$(RUN) -c "import cv2" 2>/dev/null || $(RUN) -m pip install --quiet --force-reinstall --no-deps opencv-python-headless
	touch $@

data: $(PEOPLE_ANNOTATIONS)

$(PEOPLE_ANNOTATIONS): $(INSTALLED) tools/make_people_dataset.py $(wildcard maskrcnn_benchmark/data/synthetic_people/*.py)
	$(RUN) tools/make_people_dataset.py --output $(PEOPLE) --train $(TRAIN_IMAGES) --val $(VAL_IMAGES)
	touch $@

train: $(TRAIN_RESULTS)
	@cat $(TRAIN_RESULTS)
	@echo "Pictures: $(TRAIN_OUTPUT)/inference/people_val/pictures  Log: $(TRAIN_OUTPUT)/log.txt"

$(TRAIN_RESULTS): $(INSTALLED) $(PEOPLE_ANNOTATIONS) $(TRAIN_CONFIG) configs/hrnet_refine.yaml
	$(RUN) tools/train_net.py --config-file $(TRAIN_CONFIG) OUTPUT_DIR $(TRAIN_OUTPUT)
	touch $@

test: $(INSTALLED)
	$(RUN) -m pytest -n $(JOBS) -q

check: lint
	$(RUN) -m pytest -n $(JOBS) -q -m "not slow"

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(CLANG_FORMAT) --dry-run -Werror $(CLANG_FORMATTED)

format: $(INSTALLED)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .
	$(CLANG_FORMAT) -i $(CLANG_FORMATTED)

# Check that the CUDA kernels compile, for one architecture into build/. Needs nvcc, but no GPU.
cuda: $(INSTALLED)
	FORCE_CPU= FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST="$${TORCH_CUDA_ARCH_LIST:-9.0}" $(RUN) setup.py build_ext --build-temp build/cuda --build-lib build/cuda

clean:
	rm -rf $(VENV) build dist output datasets/people maskrcnn_benchmark.egg-info
	find maskrcnn_benchmark -name "*.so" -delete
