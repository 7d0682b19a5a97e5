# The programs with CPU workers.  From the top of the repository:
#   docker build -f deploy/docker/cpu.Dockerfile -t h2oserve:0.1.0 .
ARG BASE=debian:12

FROM ${BASE} AS build
WORKDIR /src
COPY tools/install_dependencies.sh tools/
RUN tools/install_dependencies.sh
COPY . .
ARG COMMIT=unknown
# Objects in a ccache that is mounted are known by their locale, too.
RUN export LANG=C.UTF-8 \
 && cmake --preset release -DH2O_WITH_TESTS=OFF -DH2O_COMMIT="$COMMIT" \
 && cmake --build --preset release --target h2oserve h2oserve-coordinator h2oserve-worker h2oserve_client -- --quiet \
 && cmake --install build/release --prefix /opt/h2oserve --strip \
 && rm -rf /opt/h2oserve/include /opt/h2oserve/lib/cmake /opt/h2oserve/lib/pkgconfig \
 && mkdir /opt/h2oserve/share/sbom \
 && deploy/docker/h2oserve-packages >/opt/h2oserve/share/sbom/build.tsv

FROM ${BASE}
# What the programs need of the system, libstdc++, is there.
ENV PATH=/opt/h2oserve/bin:/usr/local/bin:/usr/bin:/bin HOME=/var/h2oserve
EXPOSE 50051 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=120s CMD ["h2oserve-healthy"]
CMD ["h2oserve", "serve", "--model", "/opt/h2oserve/share/h2oserve/opt-demo", "--tp", "2", "--listen", "0.0.0.0:50051", "--http", "0.0.0.0:8000"]
COPY deploy/docker/h2oserve-ranks deploy/docker/h2oserve-healthy deploy/docker/h2oserve-packages /usr/local/bin/
COPY --from=build /opt/h2oserve /opt/h2oserve
RUN h2oserve-packages >/opt/h2oserve/share/sbom/image.tsv \
 && mkdir -p /var/h2oserve/cache /var/h2oserve/faults && chown -R 10001:10001 /var/h2oserve
USER 10001:10001
WORKDIR /var/h2oserve
