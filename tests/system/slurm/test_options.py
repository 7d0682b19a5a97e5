"""Wrong options of the sbatch script, which it refuses before it asks Slurm anything."""
import subprocess

import pytest

from conftest import REPOSITORY

SCRIPT = REPOSITORY / "deploy" / "slurm" / "h2oserve.sbatch"


@pytest.mark.parametrize("arguments, says", [
    ([], "--model is missing"),
    (["--model"], "--model needs a value"),
    (["--model=m", "x"], "what is 'x'?"),
    (["--model=m", "--best"], "--best needs a value"),
    (["--model=m", "--best=1"], "there is no option --best"),
    (["--model=m", "--tp=0"], "numbers from 1, not '0'"),
    (["--model=m", "--groups=two"], "numbers from 1, not 'two'"),
    (["--model=m", "--port=-1"], "whole numbers, not '-1'"),
    (["--model=m", "--http-port=http"], "whole numbers, not 'http'"),
    (["--model=m", "--grace=30s"], "whole numbers, not '30s'"),
    (["--model=m", "--max-restarts=many"], "whole numbers, not 'many'"),
    (["--model=m", "--device=tpu"], "--device is cpu or cuda, not 'tpu'"),
    (["--model=m"], "this is a script for sbatch"),
])
def test_wrong_options_are_refused(arguments, says):
    done = subprocess.run(["bash", SCRIPT, *arguments], env={"PATH": "/usr/bin:/bin"}, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2 and says in done.stderr, done.stderr
