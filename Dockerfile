# CPU: docker build -t icr --build-arg PIP_EXTRA_INDEX_URL=PyTorch's index of CPU builds (pytorch.org, Get started, CPU) .
#      docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" icr iterate --rounds 2
# GPU: docker build -t icr:gpu --build-arg EXTRA=gpu,nlp .
#      docker run --rm --user "$(id -u):$(id -g)" --gpus all --ipc=host -v "$PWD:/data" icr:gpu iterate --config my.yaml
# Configs, data and runs are in the mounted folder; models from the hub are kept in its .cache. Without --user, files are root's.
FROM python:3.11-slim
ARG EXTRA=""
ARG PIP_EXTRA_INDEX_URL=""
# git: icr data get; g++: kernels that vLLM and DeepSpeed compile; libnuma1: vLLM on a CPU
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends git g++ libnuma1 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/icr
COPY . .
# as `make setup`, without a virtual environment; the last line finds a torch that needs CUDA where it should not
# hadolint ignore=DL3013
RUN if [ -n "$EXTRA" ]; then pip install --no-cache-dir ".[$EXTRA]"; else \
      pip install --no-cache-dir --no-deps -r requirements/cpu.txt && \
      pip install --no-cache-dir --no-deps -r requirements/torch.txt && \
      pip install --no-cache-dir --no-deps --no-build-isolation . ; fi && \
    python -c 'import torch'
WORKDIR /data
# a user of --user has neither a home nor a name of its own, and torch asks for both
ENV HOME=/data USER=icr
ENTRYPOINT ["icr"]
