# `make demo` and `make test` are all a newcomer needs; both make the virtual environment when it is not there.
PYTHON ?= python3
VENV ?= .venv
SIZE ?= small
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo train-npp train-slimmable train-importance test test-fast test-lowest test-slow lint docs bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(STAMP)  ## fetch weights and images, evaluate nine codecs, write the report
	$(BIN)/vcm fetch yolov3-tiny coco-sample
	$(BIN)/vcm evaluate experiment=demo
	@echo "the report:"
	@$(BIN)/vcm report runs/demo

train-npp: $(STAMP)  ## train the preprocessor for BPG and its proxy, from nothing; again: go on; SIZE=full: on a GPU
	$(BIN)/vcm fetch photo-corpus yolov3-tiny
	$(BIN)/vcm train experiment=proxy/bpg_$(SIZE)
	$(BIN)/vcm train experiment=proxy/bpg_finetune_$(SIZE)
	$(BIN)/vcm train experiment=npp/$(SIZE)

train-slimmable: $(STAMP)  ## train the slimmable codec, from nothing; again: go on; SIZE=full: on a GPU
	$(BIN)/vcm fetch photo-corpus yolov3-tiny
	$(BIN)/vcm train experiment=slimmable/two_task_$(SIZE)
	$(if $(filter small,$(SIZE)),$(BIN)/vcm train experiment=slimmable/two_task_heads_small)

train-importance: $(STAMP)  ## train the network that predicts importance maps; again: go on; SIZE=full: on a GPU
	$(BIN)/vcm fetch photo-corpus yolov3-tiny
	$(BIN)/vcm train experiment=importance/$(SIZE)

test: $(STAMP)  ## run the tests, without those marked slow or gpu, on up to four cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

test-fast: $(STAMP)  ## the tests of networks, codecs, metrics, losses and data alone, without ONNX, memory and downloads
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal \
	  tests/nn tests/codecs tests/metrics tests/losses tests/data -k 'not onnx and not memory and not test_assets'

test-lowest: $(STAMP)  ## the tests with the lowest versions of the dependencies that pyproject.toml allows
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv venv --quiet --clear $(VENV)-lowest
	$(BIN)/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct --only-binary :all: \
	  --no-binary vcm --no-binary antlr4-python3-runtime --editable '.[dev]'
	OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest -n logical --maxprocesses 4 --dist worksteal -o filterwarnings=ignore

test-slow: $(STAMP)  ## run the tests marked slow
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)  ## ruff, mypy, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)  ## the documentation site, into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: $(STAMP)  ## the benchmarks behind the documentation's numbers
	$(BIN)/vcm fetch yolov3-tiny yolov4-tiny mobilenet-v2 coco-sample
	$(BIN)/python benchmarks/codec_in_loop.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/bulk.py
	$(BIN)/python -W ignore benchmarks/slimmable_latency.py
	$(BIN)/python -W ignore benchmarks/npp_latency.py
	$(BIN)/python -W ignore benchmarks/npp_step.py
	$(BIN)/python benchmarks/rate_accuracy.py

clean:  ## remove the virtual environment and build leftovers
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info
