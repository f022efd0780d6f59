# syntax=docker/dockerfile:1
# Web server, worker, Prefect server and commands: one image, which `command` tells apart.
# What it does not have: an author's own processes, and the libraries of the example processes
# (`--no-extra examples`). For rasters, which pygeoapi reads with rasterio, add libexpat1 to the
# second stage where the base image lacks it.

FROM python:3.12-slim-trixie AS build
COPY --from=ghcr.io/astral-sh/uv:0.9.7 /uv /usr/local/bin/uv
ENV UV_PROJECT_ENVIRONMENT=/app/.venv \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /build
# what is depended on changes less often than the package itself
COPY pyproject.toml uv.lock ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --frozen --no-dev --all-extras --no-extra examples --no-install-project
COPY README.md LICENSE ./
COPY pygeoapi_prefect ./pygeoapi_prefect
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --frozen --no-dev --all-extras --no-extra examples --no-editable

FROM python:3.12-slim-trixie
COPY --from=build /app/.venv /app/.venv
COPY container /app/container
# an operator's configuration and modules go there, and it is the one folder that is written to
RUN install --directory --owner=10001 --group=10001 /srv/pygeoapi
# USER and HOME, since nothing else knows the number; a Prefect server writes the files of its UI
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    USER=pygeoapi \
    HOME=/srv/pygeoapi \
    PREFECT_SERVER_UI_STATIC_DIRECTORY=/srv/pygeoapi/.prefect-ui
USER 10001:10001
WORKDIR /srv/pygeoapi
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "/app/container/healthy.py", "http://127.0.0.1:5000/conformance?f=json"]
CMD ["pygeoapi-prefect", "serve", "--host", "0.0.0.0", "--port", "5000"]
