"""The examples in README and docs run as they stand: those in Python of a page are one program."""
import re
import subprocess
import sys

import pytest

from conftest import PATIENCE, REPOSITORY

ADDRESS = "127.0.0.1:50051"  # of the pages
PAGES = ("README.md", "clients/python/README.md", "docs/clients-python.md")
FENCE = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


def program_of(page, address):
    """The page's Python, each line where it stands in the page."""
    text = (REPOSITORY / page).read_text()
    lines = [""] * text.count("\n")
    for match in FENCE.finditer(text):
        first = text.count("\n", 0, match.start(1))
        lines[first:first + match.group(1).count("\n")] = match.group(1).splitlines()
    return "\n".join(lines).replace(ADDRESS, address)


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


@pytest.mark.parametrize("page", PAGES)
def test_python(shared, folder, page):
    program = program_of(page, shared.address)
    assert "h2oserve" in program, "the page has no Python"
    (folder / "page.py").write_text(program)
    done = subprocess.run(["env", f"PYTHONPATH={REPOSITORY / 'clients' / 'python' / 'src'}", sys.executable, "page.py"],
                          cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE)
    assert done.returncode == 0, f"{page}: {done.stdout}"
    assert done.stdout.strip()
