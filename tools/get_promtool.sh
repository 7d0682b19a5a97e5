#!/usr/bin/env bash
# Puts Prometheus' promtool into build/promtool, for the tests of metrics and of
# alert rules.  Nothing is installed: the package would start a server.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -x build/promtool/promtool ]; then exit 0; fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
(cd "$folder" && apt-get download -qq prometheus && dpkg -x prometheus_*.deb .)
mkdir -p build/promtool
cp "$folder/usr/bin/promtool" build/promtool/
