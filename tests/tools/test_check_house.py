"""tools/check_house.py names each broken rule of a small tree, and nothing in a tree that keeps them."""
import pathlib
import subprocess
import sys

import pytest

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "check_house.py"
OPENING = "// Adds numbers, two at a time.\n"
GOOD = {
    "docs/design.md": "# Design\n",
    "base/CMakeLists.txt": "h2o_library(h2o_base SRCS a.cc)\n",
    "base/a.h": "",
    "base/a.cc": OPENING + '#include "base/a.h"\n',
    "model/CMakeLists.txt": "h2o_library(h2o_model SRCS m.cc DEPS h2o_base)\n",
    "model/m.h": "",
    "model/m.cc": OPENING + '#include "base/a.h"\n#include "model/m.h"\n',
}


def large(name):
    return f"class {name} {{\n" + "  int x;  // }\n" * 260 + "};\n"


def check(folder, files):
    for name, text in {**GOOD, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    run = subprocess.run([sys.executable, TOOL, folder], stdout=subprocess.PIPE, text=True)
    assert run.returncode == (0 if "in order" in run.stdout else 1)
    return run.stdout


@pytest.mark.parametrize("files", [
    {},
    {"kernels/k.h": large("Kernel")},
    {"base/a.h": large("Big"), "docs/design.md": "## Large classes\n| class | why |\n| `Big` | one story |\n"},
])
def test_a_house_in_order(tmp_path, files):
    assert check(tmp_path, files) == "the house is in order\n"


@pytest.mark.parametrize("files, says", [
    ({"base/a.cc": '#include "base/a.h"\n'}, "base/a.cc:1: open with a comment"),
    ({"base/a.h": '#include "base/b.h"\n', "base/b.h": '#include "base/a.h"\n'}, "base/a.h includes base/b.h includes base/a.h"),
    ({"base/a.h": large("Big")}, "base/a.h:1: class Big has 262 lines"),
    ({"model/CMakeLists.txt": "h2o_library(h2o_model SRCS m.cc)\n"}, "h2o_model includes base/a.h but links none of h2o_base"),
    ({"model/m.cc": OPENING}, "h2o_model links h2o_base but includes none of its headers"),
])
def test_a_broken_rule_is_named(tmp_path, files, says):
    assert says in check(tmp_path, files)
