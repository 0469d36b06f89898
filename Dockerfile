# ComfyUI keys. docs/deployment.md, "Docker", says how to run it.
FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/comfyui-keys
# Every package by its hash. Apart from the sources, so that Docker keeps this layer.
COPY requirements/runtime.txt requirements/
RUN /opt/comfyui-keys/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements/runtime.txt
COPY . .
RUN /opt/comfyui-keys/bin/pip install --no-cache-dir --no-index --no-deps --no-build-isolation .

FROM python:3.13-slim
# The folder belongs to the user that serves, and so do volumes that are mounted there first.
RUN useradd --uid 10001 --no-create-home --home-dir /data comfyui-keys \
    && install --directory --mode 0700 --owner 10001 --group 10001 /data
COPY --from=build /opt/comfyui-keys /opt/comfyui-keys
ENV PATH=/opt/comfyui-keys/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    PORT=8000 \
    VAR_DIR=/data \
    LOG_FORMAT=json
USER 10001
VOLUME /data
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=10s --timeout=5s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/ready', timeout=4)"]
ENTRYPOINT ["comfyui-keys"]
CMD ["serve"]
