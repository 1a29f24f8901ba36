# CPU: docker build -t icr .            docker run --rm icr iterate --rounds 2
# GPU: docker build -t icr:gpu --build-arg EXTRA=gpu,nlp .            docker run --rm --gpus all icr:gpu …
FROM python:3.11-slim
ARG EXTRA=""
# git: icr data get; g++: kernels that vLLM and DeepSpeed compile
RUN apt-get update && apt-get install -y --no-install-recommends git g++ libnuma1 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/icr
COPY . .
RUN if [ -n "$EXTRA" ]; then pip install --no-cache-dir ".[$EXTRA]"; else \
      pip install --no-cache-dir "setuptools>=77" && pip install --no-cache-dir --no-deps -r requirements/cpu.txt && \
      pip install --no-cache-dir --no-deps -r requirements/torch.txt && \
      pip install --no-cache-dir --no-deps --no-build-isolation . ; fi
WORKDIR /data
ENTRYPOINT ["icr"]
