# make run    the demo in the foreground: ESMTP on 127.0.0.1:2525, LMTP on 127.0.0.1:2524
# make test   linters, types, then every test; tests that need a server which is not installed are skipped (not with CI=true)
# make proofs  floods, overload, pools that are killed, crashes of the queue: minutes each, on a machine with nothing else to do
# make docs   docs/reference, the manual pages and the words of contrib/vim and contrib/vscode, from the declarations
# make bench  throughput beside Postfix, into docs/performance.md (Linux, root, Debian's postfix)
# Everything lives in .venv; PYTHON=… chooses another interpreter (3.11 or newer), VENV=… another place, TESTS=… some of the fast tests.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed

.PHONY: run test lint fast slow proofs docs bench clean

run: $(READY)
	@echo 'Try in another terminal:'
	@echo '  curl -sS --crlf smtp://127.0.0.1:2525 --mail-from you@example.com --mail-rcpt ann@example.org -T README.md'
	@echo 'The mail lands in etc/demo/Maildir/new. Stop with Control-C.'
	$(BIN)/twistd -n --pidfile= mailgate -c etc/demo.conf

test: lint fast slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fast: $(READY)
	$(BIN)/python -m pytest -n 2 -m 'not slow and not proof' $(TESTS)

slow: $(READY)
	$(BIN)/python -m pytest -n 2 -m slow --timeout 900

proofs: $(READY)
	$(BIN)/python -m pytest -m proof --timeout 900

docs: $(READY)
	$(BIN)/python -m contrib.reference

bench: $(READY)
	$(BIN)/python -m contrib.bench --write docs/performance.md

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis etc/demo

# setuptools is named so that an editable install finds one new enough; compat mode (and its warning silenced), because a plain
# editable install of this flat layout hides the twistd plugin.
$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'mailgate needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo 'no virtual environment could be made; on Debian: apt-get install python3-venv' >&2; exit 1; }
	$(BIN)/python -m pip install -q --upgrade pip 'setuptools >= 69' wheel
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install -q --prefer-binary --config-settings editable_mode=compat -e '.[test]'
	@touch $(READY)
