# The programs with CPU and GPU workers, for A100 and Hopper.  From the top of the
# repository:
#   docker build -f deploy/docker/cuda.Dockerfile -t h2oserve:0.1.0-cuda .
ARG CUDA=13.0.2

FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04 AS build
WORKDIR /src
ARG NCCL=2.28.9-1+cuda13.0
RUN apt-get update && apt-get install -y --no-install-recommends --allow-change-held-packages \
      "libnccl2=$NCCL" "libnccl-dev=$NCCL" \
 && rm -rf /var/lib/apt/lists/*
COPY tools/install_dependencies.sh tools/
RUN tools/install_dependencies.sh
COPY . .
ARG COMMIT=unknown
RUN cmake --preset cuda -DH2O_WITH_TESTS=OFF -DH2O_COMMIT="$COMMIT" \
 && cmake --build --preset cuda --target h2oserve h2oserve-coordinator h2oserve-worker h2oserve_client -- --quiet \
 && cmake --install build/cuda --prefix /opt/h2oserve --strip \
 && rm -rf /opt/h2oserve/include /opt/h2oserve/lib/cmake /opt/h2oserve/lib/pkgconfig \
 && mkdir /opt/h2oserve/share/sbom \
 && deploy/docker/h2oserve-packages >/opt/h2oserve/share/sbom/build.tsv

FROM nvidia/cuda:${CUDA}-base-ubuntu24.04
ARG NCCL=2.28.9-1+cuda13.0
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends --allow-change-held-packages \
      libcublas-13-0 "libnccl2=$NCCL" libstdc++6 \
 && rm -rf /var/lib/apt/lists/*
COPY deploy/docker/h2oserve-ranks deploy/docker/h2oserve-healthy deploy/docker/h2oserve-packages /usr/local/bin/
COPY --from=build /opt/h2oserve /opt/h2oserve
RUN h2oserve-packages >/opt/h2oserve/share/sbom/image.tsv \
 && mkdir -p /var/h2oserve/cache /var/h2oserve/faults && chown -R 10001:10001 /var/h2oserve
ENV PATH=/opt/h2oserve/bin:/usr/local/bin:/usr/bin:/bin HOME=/var/h2oserve
USER 10001:10001
WORKDIR /var/h2oserve
EXPOSE 50051 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=120s CMD ["h2oserve-healthy"]
CMD ["h2oserve", "serve", "--model", "/opt/h2oserve/share/h2oserve/opt-demo", "--device", "cuda", "--listen", "0.0.0.0:50051", "--http", "0.0.0.0:8000"]
