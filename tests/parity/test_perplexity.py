"""Perplexity of every policy and budget, decoded token by token, within 1 % of the simulation: tools/perplexity.py.

Runs on the text that H2O_HELDOUT names (documents separated by NUL bytes) and is skipped without it.
"""
import os
import pathlib
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not os.environ.get("H2O_HELDOUT"), reason="H2O_HELDOUT does not name the held-out text")
def test_perplexity_is_the_simulations(program):
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tools" / "perplexity.py", "--text", os.environ["H2O_HELDOUT"],
         "--binary", program.binary], stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
