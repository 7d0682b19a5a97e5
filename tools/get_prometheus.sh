#!/usr/bin/env bash
# Puts Prometheus and its promtool into build/prometheus, for the tests of metrics,
# alert rules and the compose file.  Nothing is installed: the package would start
# a server.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -x build/prometheus/promtool ]; then exit 0; fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
(cd "$folder" && apt-get download -qq prometheus && dpkg -x prometheus_*.deb .)
mkdir -p build/prometheus
cp "$folder"/usr/bin/{prometheus,promtool} build/prometheus/
