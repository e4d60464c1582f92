# make demo | test | lint | format | env | clean. The environment is .venv; PYTHON chooses what makes it.
PYTHON ?= python3
SEED ?= 0
unexport PYTHON  # the scripts below shall find .venv
BIN := .venv/bin
# OpenMP threads that spin while they wait take the cores from everything else on a small machine.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test lint format env clean

demo: env
	bash exp.demo/demo.sh $(SEED)

# A test uses one core; four hold as many networks of full size in memory as a small machine has room for.
test: env
	$(BIN)/python -m pytest -n auto --maxprocesses=4 --dist worksteal

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

env: .venv/complete

.venv/complete: requirement.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "mgd needs Python 3.10 or newer, $(PYTHON) is older: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirement.txt
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv build *.egg-info
