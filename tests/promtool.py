"""Prometheus' promtool, of build/promtool or of this machine, and the mark of tests that take it."""
import os
import pathlib
import shutil

import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "build" / "promtool"
PROMTOOL = shutil.which("promtool", path=f"{FOLDER}:{os.environ['PATH']}")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool; tools/get_promtool.sh gets it")
