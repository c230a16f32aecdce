# `rdvla serve` in a container; docs/peers.md says how to build and run it.
#   CUDA, and CPU:         docker build -t rdvla .
#   CPU alone, 5 GB less:  docker build -t rdvla:cpu --build-arg TORCH_INDEX=... .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# --- an environment in /opt/rdvla; only that folder reaches the image ---
FROM ${PYTHON_IMAGE} AS installed
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv /opt/rdvla
ENV PATH=/opt/rdvla/bin:$PATH
COPY constraints.txt ./

# Torch comes first: it is by far the largest part, and changes least. The default index has it with CUDA's libraries, so
# the host only needs its driver; PyTorch's index of CPU builds has it without.
ARG TORCH_INDEX=""
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} "$(grep '^torch==' constraints.txt)"

ARG EXTRAS=serve,runtime
COPY pyproject.toml README.md LICENSE ./
COPY packages/rdvla-client packages/rdvla-client
COPY src src
RUN pip install --no-cache-dir -c constraints.txt ./packages/rdvla-client ".[${EXTRAS}]"

# --- the image ---
FROM ${PYTHON_IMAGE}
# `--compiled true` needs a compiler: --build-arg SYSTEM_PACKAGES=g++
ARG SYSTEM_PACKAGES=""
# Which versions are there depends on the base, so they cannot be named here.
# hadolint ignore=DL3008,SC2086
RUN if [ -n "${SYSTEM_PACKAGES}" ]; then \
        apt-get update \
        && apt-get install -y --no-install-recommends ${SYSTEM_PACKAGES} \
        && rm -rf /var/lib/apt/lists/*; \
    fi \
    && useradd --uid 10001 --create-home --shell /usr/sbin/nologin rdvla
COPY --from=installed /opt/rdvla /opt/rdvla
ENV PATH=/opt/rdvla/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 10001
WORKDIR /home/rdvla
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
# A container is reached from outside only: through the ports that `docker run -p` opens.
ENTRYPOINT ["rdvla", "serve", "--host", "0.0.0.0"]
CMD ["--policy", "/policy"]
