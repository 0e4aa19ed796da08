# Every target does its own set-up: it needs Python >= 3.10 with headers and a C++17 compiler, nothing else.
#   make run      build, and serve the bundled model on 127.0.0.1:8000 (ARGS="--port 9000" for other options)
#   make test     the whole test suite, but for the proofs              (ARGS="-k bundle" for a part of it)
#   make check    formatting, lint, types, and whether the engine's stub is up to date
#   make bench    decoding and serving speed on this machine, each checked first
#   make load     a crowd of users, beside CTranslate2 behind FastAPI    (ARGS="--part curve" for a part of it)
#   make image    the container image, with buildah on a Debian of its own  (BASE=IMAGE on another; or docker build .)
#   make page     every benchmark of docs/benchmarks.md anew, and the page itself (hours; an idle machine)
#   make stub     write that stub anew
#   make proof    what takes longer: a bare install without torch, the engine against torch on real text, the pages in
#                 a browser, the image, load, the engine under Address-, UndefinedBehavior- and ThreadSanitizer
#   make gpu      on a machine with a CUDA device: parity, gradients, compute-sanitizer, times
#   make install  install into the Python that PYTHON names

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := CMakeLists.txt pyproject.toml $(shell find cpp -not -path 'cpp/cuda/*' '(' -name '*.cpp' -o -name '*.h' ')')
CXX_FILES := $(shell find cpp -name '*.cpp' -o -name '*.h' -o -name '*.cu')

.PHONY: run test check bench load image page stub proof gpu install
.DELETE_ON_ERROR:

run: $(VENV)/.ready
	$(BIN)/kserve serve $(ARGS)

# Two files at a time: most tests compute on one thread, and those of a file share their servers and models.
test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -m 'not proof' -n 2 --dist loadfile $(ARGS)

proof: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -m proof $(ARGS)

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict kserve tests loadtest deploy
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	rm -rf build/stub
	$(BIN)/pybind11-stubgen kserve._engine -o build/stub
	diff -r build/stub/kserve/_engine kserve/_engine || { echo "kserve/_engine is out of date; run: make stub"; exit 1; }

bench: $(VENV)/.ready-dev
	$(BIN)/kserve bench decode $(ARGS)
	$(BIN)/kserve bench serve $(ARGS)

load: $(VENV)/.ready-dev
	$(BIN)/python -m loadtest $(ARGS)

image:
	deploy/image.sh

RESULTS := docs/benchmarks
DECODE := $(BIN)/kserve bench decode
IWSLT := $(DECODE) --random iwslt
NO_TORCH := --against kserve-dense-int8,kserve-dense-fp32,ctranslate2-int8,ctranslate2-float32
page: $(VENV)/.ready-dev
	$(DECODE) --target-length 15 --against kserve-dense-int8,torch-dense,ctranslate2-int8 --json $(RESULTS)/model.json
	$(DECODE) --shortlist --against kserve-dense-int8 --json $(RESULTS)/model-shortlist.json
	$(IWSLT) --against torch-dense,torch-k --json $(RESULTS)/torch.json
	$(IWSLT) --beam 1,5 --shortlist --against ctranslate2-int8 --json $(RESULTS)/shortlist.json
	$(IWSLT) --batch 1,32 --beam 1,5 --against ctranslate2-int8 --repeats 9 --json $(RESULTS)/headline.json
	$(IWSLT) --batch 1,8,32,64 --beam 1,5 $(NO_TORCH) --json $(RESULTS)/batch.json
	$(IWSLT) --target-length 10,20,50,100,200 $(NO_TORCH) --json $(RESULTS)/length.json
	$(IWSLT) --batch 2,32 --threads 1,2 $(NO_TORCH) --json $(RESULTS)/threads.json
	$(BIN)/kserve bench kernel --n 64,128,256,512,1024 --json $(RESULTS)/kernel.json
	$(BIN)/kserve bench kernel --n 2048,4096 --rows 1,8,32 --json $(RESULTS)/kernel-large.json
	$(BIN)/kserve bench serve --json $(RESULTS)/serve.json
	$(BIN)/python -m loadtest
	$(BIN)/kserve bench page $(RESULTS)/*.json $(RESULTS)/steps/*.json $(RESULTS)/training/multi30k-sweep.json

stub: $(VENV)/.ready-dev
	rm -rf build/stub
	$(BIN)/pybind11-stubgen kserve._engine -o build/stub
	mkdir -p kserve/_engine
	cp build/stub/kserve/_engine/*.pyi kserve/_engine/

# compute-sanitizer slows everything a hundredfold: it gets the tests marked for it, small ones of every kind.
CUDA_SANITIZE := compute-sanitizer --error-exitcode 1 --target-processes all
gpu: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -m gpu
	$(CUDA_SANITIZE) --tool memcheck $(BIN)/python -m pytest -m 'gpu and sanitize'
	$(CUDA_SANITIZE) --tool racecheck $(BIN)/python -m pytest -m 'gpu and sanitize'
	$(CUDA_SANITIZE) --tool initcheck $(BIN)/python -m pytest -m 'gpu and sanitize'
	$(BIN)/kserve bench cuda --json $(RESULTS)/cuda.json

install:
	$(PYTHON) -m pip install .

# The checkout itself is installed (editable): only a change of the native code or of pyproject.toml builds again.
$(VENV)/.ready: $(NATIVE) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.ready-dev: $(NATIVE) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[train,test,check,bench]'
	touch $(VENV)/.ready $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "kserve needs Python 3.10 or newer; name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "this Python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@test -f "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || \
	  { echo "the Python headers are missing; on Debian and Ubuntu: apt install python3-dev"; exit 1; }
	@command -v $(CXX) > /dev/null || \
	  { echo "no C++ compiler ($(CXX)); on Debian and Ubuntu: apt install g++"; exit 1; }
	$(PYTHON) -m venv $(VENV)
