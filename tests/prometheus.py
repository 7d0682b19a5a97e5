"""Prometheus and its promtool, of build/prometheus or of this machine, and the marks of tests that take them."""
import os
import pathlib
import shutil

import pytest

_PATH = f"{pathlib.Path(__file__).resolve().parents[1] / 'build' / 'prometheus'}:{os.environ['PATH']}"
PROMETHEUS = shutil.which("prometheus", path=_PATH)
PROMTOOL = shutil.which("promtool", path=_PATH)
needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason="no Prometheus; tools/get_prometheus.sh gets it")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool; tools/get_prometheus.sh gets it")
