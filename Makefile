# Two commands do everything: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORE ?= runs/demo
# More than one OpenMP thread a process only gets in the way on a small machine.
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test test-fast lint bench gallery chaos lower-bounds newest sbom clean

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/installed ## erase a batch of artists from the shipped model, then write report.html
	$(BIN)/conceptprune erase manifests/demo.yaml --store $(STORE)
	$(BIN)/conceptprune report $(STORE) --out $(STORE)/report.html

test: lint ## everything CI checks
	$(BIN)/python -m pytest -n 3 --dist loadgroup --no-loadscope-reorder

test-fast: $(VENV)/installed-dev ## the library's tests that need no cluster, server or browser
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder tests/conceptprune -m "not slow"

lint: $(VENV)/installed-dev ## ruff, mypy, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

bench: $(VENV)/installed-dev ## speed, memory and size, as ratios; not part of CI
	$(BIN)/python -m benchmarks

gallery: $(VENV)/installed-dev ## the table of up to a hundred artists at once, from where it stopped; hours
	$(BIN)/python -m benchmarks.gallery.table
	$(BIN)/python -m benchmarks.gallery.table --kind transformer
	$(BIN)/python -m benchmarks.gallery.table.costs
	$(BIN)/python -m benchmarks.gallery.table.costs --kind transformer
	$(BIN)/python -m benchmarks.gallery.table.attacks --methods untouched "UCE, tuned" "rewording, every thing named"
	$(BIN)/python -m benchmarks.gallery.table.attacks --kind transformer --methods untouched "UCE, tuned" "rewording, weaker strengths, every thing named"
	$(BIN)/python -m benchmarks.gallery.table.page

chaos: $(VENV)/installed-dev ## harm done to running jobs, with three seeds; minutes, not part of CI
	$(BIN)/python -m pytest tests/end_to_end/chaos --chaos-long

$(VENV)/installed: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[batch]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[batch,dev,evaluate]'
	touch $@

# Not part of `make test`: they fetch packages. torch is as installed.
lower-bounds: $(VENV)/installed-dev ## library and jobs at the lowest versions that pyproject.toml allows
	$(call in_versions,lower,)

newest: $(VENV)/installed-dev ## library and jobs at the newest versions that there are
	$(call in_versions,newest,--newest)

define in_versions
rm -rf $(VENV)/$(1)
$(BIN)/python tests/lower_bounds.py $(2) > $(VENV)/$(1).txt
$(BIN)/python tests/lower_bounds.py $(2) --alone > $(VENV)/$(1)-alone.txt
$(BIN)/uv pip install --quiet --python $(BIN)/python --target $(VENV)/$(1) --requirement $(VENV)/$(1).txt
$(BIN)/uv pip install --quiet --python $(BIN)/python --target $(VENV)/$(1) --no-deps --requirement $(VENV)/$(1)-alone.txt
PYTHONPATH=$(CURDIR)/$(VENV)/$(1) $(BIN)/python -m pytest -q tests/conceptprune/test_any_versions.py tests/end_to_end/any_versions.py
endef

sbom: $(VENV)/installed ## a bill of materials of .venv, in CycloneDX's format
	$(BIN)/python cluster/sbom.py > sbom.cdx.json

clean:
	rm -rf $(VENV) sbom.cdx.json build *.egg-info .pytest_cache .mypy_cache .ruff_cache
