"""The golden files of kv_codes/ are those that tools/make_kv_code_goldens.py makes today."""
import pathlib
import subprocess
import sys

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "make_kv_code_goldens.py"


def test_golden_files_are_up_to_date():
    done = subprocess.run([sys.executable, TOOL, "--check"], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
