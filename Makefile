# Two commands: `make demo` runs the main job on what ships, `make test` runs every check. Both set up .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo test coverage lint docs lock clean

demo: .venv/installed
	$(BIN)/medood demo --out runs/demo

# In one process a core, of at most four: one test needs up to 2 GiB.
test: .venv/installed lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# Every test with branch coverage, which is printed.
coverage: .venv/installed
	$(BIN)/python -m pytest --cov --cov-report=term

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

lint: .venv/installed
	$(BIN)/ruff check medood tests reports docs
	$(BIN)/ruff format --check medood tests reports docs
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

# The locked versions, by hash, from whatever package index this machine uses.
.venv/installed: requirements.lock requirements-uv.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "medood needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-uv.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

# Lock again after a change of dependencies in pyproject.toml; the second file is for the Containerfile, which brings torch.
lock:
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate \
	  --python-version 3.11 pyproject.toml --group dev -o requirements.lock
	echo hatchling | $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate \
	  --constraint requirements.lock --python-version 3.11 pyproject.toml - --extra pacs -o requirements-container.lock $$(grep --only-matching --extended-regexp \
	  '^(nvidia-[a-z0-9-]+|cuda-[a-z]+|triton|torch|torchvision)==' requirements.lock | sed 's/==$$//; s/^/--no-emit-package /')
	echo uv | $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate \
	  --python-version 3.11 - -o requirements-uv.lock

clean:
	rm -rf .venv runs build
