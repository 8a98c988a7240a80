# The server of `bark-tf serve`, on the CPU; docs/serving.md says how to run it.
FROM python:3.12-slim

WORKDIR /source
COPY . .
# The versions are those that pyproject.toml allows.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[serve]" \
    && rm -rf /source \
    && useradd --create-home --uid 1000 bark

USER 1000
WORKDIR /home/bark
# Downloaded checkpoints; a volume here keeps them.
ENV HF_HOME=/home/bark/models
RUN mkdir models
VOLUME /home/bark/models

EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=5m \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["bark-tf", "serve", "--host", "0.0.0.0"]
