# mirkit's commands: `make help` lists them. Each sets up .venv by itself.
# Needs GNU make 3.81, a POSIX shell and Python 3.11 or newer (Linux, macOS).
.NOTPARALLEL:
.PHONY: help demo test check sync lint types notebooks pytest lab bench docs readme export lock clean FORCE

VENV := .venv
BIN := $(VENV)/bin

# The first Python that runs and is new enough; `make PYTHON=/path/to/python ...` overrides.
# (A name on the path need not run: pyenv leaves shims of versions that are not switched on.)
VERSION := import sys; sys.version_info >= (3, 11) or sys.exit(1); print("%d.%d" % sys.version_info[:2])
PYTHON := $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c '$(VERSION)' >/dev/null 2>&1 && echo $$p && break; done)

# At most eight workers of one thread each: more of them cost memory and no longer help.
CORES := $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); [ $$n -gt 8 ] && n=8; echo $$n)
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1
# Tests neither see nor leave anything in the user's own cache and reports.
TEST_ENV := $(ONE_THREAD) MIRKIT_CACHE_PATH="$(CURDIR)/build/test/cache" MIRKIT_REPORTS_PATH="$(CURDIR)/build/test/reports"

DEMO := $(BIN)/mirkit run nbs/train_pitch.ipynb
RUNNABLE := ^([_.]|train_|eval_|explore_)
# What people write by hand: ruff reads the notebooks, and the modules follow from them.
SOURCES := nbs tests bench .ci $(wildcard mirkit/__*__.py)

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# ---- set-up ----------------------------------------------------------------------------------------------------------
# The stamp is written last and says for which Python, folder and locked versions .venv was made. It goes by content, not
# by date (nbdev-export rewrites pyproject.toml as it was). Without a stamp .venv is half made, and is made anew.
STAMP := $(VENV)/made-for
FROM := $(if $(filter command,$(origin PYTHON)),$(PYTHON),$(BIN)/python)
BASE := $(shell $(FROM) -c '$(VERSION)' 2>/dev/null) $(CURDIR)
LOCKED := $(shell cat requirements.lock pyproject.toml | cksum)
MADE := $(shell $(BIN)/python -c "" 2>/dev/null && cat $(STAMP) 2>/dev/null)
ifneq ($(strip $(MADE)),$(strip $(BASE) $(LOCKED)))
$(STAMP): FORCE
endif

$(STAMP):
	@$(or $(PYTHON),false) -c '$(VERSION)' >/dev/null 2>&1 || { \
		echo "mirkit needs Python 3.11 or newer, and $(or $(PYTHON),every python on the path) is not; name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "== setting up $(VENV) with $(PYTHON): a few minutes, once"
	@case "$(MADE)" in "$(BASE) "*) ;; *) $(PYTHON) -m venv --clear $(VENV) ;; esac
	@rm -f $(STAMP)
	$(BIN)/python -m pip install -r requirements.lock
	$(BIN)/python -m pip install --no-deps --no-build-isolation -e .
	@echo "$$($(BIN)/python -c '$(VERSION)') $(CURDIR) $(LOCKED)" > $(STAMP)

# ---- use -------------------------------------------------------------------------------------------------------------
demo: $(STAMP) ## train a pitch model on sound that mirkit makes and write an HTML report (under four minutes)
	$(DEMO)

lab: $(STAMP) ## open the notebooks in JupyterLab (ARGS="--port 9999" passes options on)
	cd nbs && "$(CURDIR)/$(BIN)/jupyter" lab $(ARGS)

# ---- test ------------------------------------------------------------------------------------------------------------
test: check notebooks pytest ## everything; ends with pytest's count line

check: sync lint types ## what fails in seconds: notebooks and modules agree, ruff, mypy

# In a copy, so that a test never changes the work of whoever runs it.
sync: $(STAMP) ## exporting, cleaning and writing the README change nothing
	@echo "== export, clean and readme leave no difference"
	@set -e; copy=$$(mktemp -d); trap 'rm -rf "$$copy"' EXIT; \
	cp -R nbs mirkit pyproject.toml settings.ini README.md "$$copy"; \
	(cd "$$copy" && $(EXPORT)) || exit 1; differ=; \
	for x in nbs mirkit README.md; do \
		diff -r -u -x __pycache__ -x .ipynb_checkpoints $$x "$$copy/$$x" || differ=yes; \
	done; \
	[ -z "$$differ" ] || { echo "they differ: make export, look at git diff, commit (first nbdev-update, if a module was changed by hand)" >&2; exit 1; }

lint: $(STAMP) ## ruff on the notebooks and what else is written by hand
	@echo "== ruff"
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: $(STAMP) ## mypy on the package
	@echo "== mypy"
	$(BIN)/mypy

notebooks: $(STAMP) ## run the library notebooks side by side: their assertions are the unit tests
	@echo "== notebooks, $(CORES) at a time"
	$(TEST_ENV) $(BIN)/nbdev-test --n-workers $(CORES) --do-print --timing --skip-file-re '$(RUNNABLE)'

pytest: $(STAMP) ## what a notebook cannot show
	@echo "== pytest, $(CORES) at a time"
	$(TEST_ENV) $(BIN)/python -m pytest -n $(CORES) --dist loadfile $(ARGS)

bench: $(STAMP) ## speed, as ratios to references measured in the same run
	@set -e; for f in bench/[!_]*.py; do echo "== $$f"; $(BIN)/python "$$f"; done

# ---- write -----------------------------------------------------------------------------------------------------------
EXPORT = "$(CURDIR)/$(BIN)/nbdev-export" && "$(CURDIR)/$(BIN)/python" "$(CURDIR)/.ci/tidy.py" nbs && \
	"$(CURDIR)/$(BIN)/nbdev-clean" && "$(CURDIR)/$(BIN)/python" -m mirkit.lab.html readme
export: $(STAMP) ## notebooks to modules, notebooks cleaned, README.md written
	$(EXPORT)

readme: $(STAMP) ## README.md from nbs/index.ipynb
	$(BIN)/python -m mirkit.lab.html readme

docs: $(STAMP) ## all notebooks as a searchable site that works offline: site/index.html
	$(BIN)/python -m mirkit.lab.html site

# With the oldest Python supported, so that newer ones find these versions too, and on Linux.
# pip freeze sees what this platform needs; lines with a marker are for other ones and are kept. A local build's name
# ("+cpu") is dropped: each machine takes the build it is offered.
TORCH := 2.13.0
# soupsieve 3 refuses Python 3.11.0 to 3.11.4 (broken regular expressions), and Debian 12 has 3.11.2.
BOUNDS := "soupsieve<3"
lock: ## requirements.lock anew: the newest versions that pyproject.toml admits (and TORCH=2.13.0)
	@set -e; fresh=$$(mktemp -d); trap 'rm -rf "$$fresh" requirements.lock.new' EXIT; \
	python3.11 -m venv "$$fresh/venv"; \
	"$$fresh/venv/bin/python" -m pip install "setuptools>=77" "torch==$(TORCH)" $(BOUNDS) -e ".[dev]"; \
	"$$fresh/venv/bin/python" -m pip freeze --all --exclude-editable --exclude pip > "$$fresh/frozen"; \
	grep '^#' requirements.lock > requirements.lock.new; \
	{ sed 's/+cpu$$//' "$$fresh/frozen"; grep ' ; ' requirements.lock; } | LC_ALL=C sort -f >> requirements.lock.new; \
	mv requirements.lock.new requirements.lock

clean: ## remove what can be made again; .venv, data and reports stay
	rm -rf build dist site _proc *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
