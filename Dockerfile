# collapsekit without CUDA, for a user who is not root. Mount the folder of your config and your code at /model:
#   docker build --build-arg PIP_EXTRA_INDEX_URL=URL -t collapsekit .    # URL: the index of PyTorch's CPU builds
#   docker run --rm -v "$PWD:/model" collapsekit diagnose
FROM python:3.12-slim-bookworm AS build
ARG PIP_EXTRA_INDEX_URL
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY .ci/requirements-hashed.txt ./.ci/requirements-hashed.txt
COPY collapsekit ./collapsekit
# Wheels by their SHA-256, for Linux on x86-64; then collapsekit itself, by what is there already.
RUN python -m venv /venv \
    && /venv/bin/python -m pip install --no-cache-dir --require-hashes -r .ci/requirements-hashed.txt \
    && /venv/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.12-slim-bookworm
LABEL org.opencontainers.image.title="collapsekit" \
      org.opencontainers.image.description="Which modalities a multimodal PyTorch model ignores, how much that costs, and why" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --create-home --uid 1000 collapsekit
COPY --from=build /venv /venv
ENV PATH="/venv/bin:$PATH" PYTHONUNBUFFERED=1
USER 1000
WORKDIR /model
ENTRYPOINT ["collapsekit"]
CMD ["--help"]
