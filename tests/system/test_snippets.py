"""The Python in README and docs runs as it stands: all of a page is one program."""
import os
import re
import subprocess
import sys

import pytest

from conftest import PATIENCE, REPOSITORY, System, until
from test_http import address_of

# As the pages have them.
GRPC, HTTP = "127.0.0.1:50051", "127.0.0.1:8000"
OURS = ("README.md", "clients/python/README.md", "docs/clients-python.md")
OPENAI = ("docs/clients-http.md",)
PYPI = REPOSITORY / "build" / "pypi"


def program_of(page):
    """The page's Python, each line where it stands in the page."""
    text, lines = (REPOSITORY / page).read_text(), []
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S):
        lines += [""] * (text.count("\n", 0, match.start(1)) - len(lines)) + match.group(1).splitlines()
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def addresses(stubs):
    """Where a server listens: GRPC and HTTP of the pages, by what they are in them."""
    system = System(stubs)
    serve = system.serve("--http", "127.0.0.1:0")
    client = system.client(serve)
    until(lambda: client.health() == "SERVING", "it serves")
    yield {GRPC: serve.address(), HTTP: address_of(serve)}
    system.end()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the files that the pages name."""
    pytest.importorskip("cryptography", reason="no cryptography; apt install python3-cryptography")
    from certificates import Authority
    folder = tmp_path_factory.mktemp("snippets")
    authority = Authority(folder, "servers")
    authority.path.rename(folder / "ca.pem")
    authority.issue("client")
    return folder


def run(addresses, folder, python, program):
    """What it prints."""
    for written, real in addresses.items():
        program = program.replace(written, real)
    (folder / "page.py").write_text(program)
    done = subprocess.run([python, "page.py"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=2 * PATIENCE,
                          env={**os.environ, "PYTHONPATH": str(REPOSITORY / "clients" / "python" / "src")})
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", OURS)
def test_our_package(addresses, folder, page):
    program = program_of(page)
    assert "import h2oserve" in program
    assert run(addresses, folder, sys.executable, program).strip()


@pytest.mark.parametrize("page", OPENAI)
def test_packages_of_openai_and_langchain(addresses, folder, page):
    if not (PYPI / "installed.txt").exists():
        pytest.skip("no packages from PyPI; tools/install_dependencies.sh --pypi")
    program = program_of(page)
    assert "import openai" in program and "langchain" in program
    assert run(addresses, folder, PYPI / "venv" / "bin" / "python3", program).strip()
