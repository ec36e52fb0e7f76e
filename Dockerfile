# syntax=docker/dockerfile:1
# CPU image. The same steps as `make install`; kept in step with the Makefile.
FROM python:3.12-slim-bookworm AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /app
RUN python -m venv /app/.venv
COPY requirements.lock ./
RUN /app/.venv/bin/pip install --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 \
    && /app/.venv/bin/pip install -r requirements.lock
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY steering steering
COPY server server
COPY tiller tiller
COPY client client
COPY ui ui
COPY sae_weights sae_weights
RUN /app/.venv/bin/pip install --no-deps .

FROM python:3.12-slim-bookworm
LABEL org.opencontainers.image.title="Tiller" \
      org.opencontainers.image.description="Chat with a language model while you turn its features up and down" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 1000 --create-home tiller && mkdir /data && chown tiller /data
COPY --from=builder --chown=tiller /app/.venv /app/.venv
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 HF_HOME=/data/hf \
    TILLER_HOST=0.0.0.0 TILLER_PORT=8000 TILLER_DATA_DIR=/data TILLER_BROWSER=false
USER 1000
WORKDIR /data
# The default model, so that the first start needs no network.
RUN tiller model fetch
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
CMD ["tiller", "serve"]
