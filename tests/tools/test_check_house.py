"""tools/check_house.py names each broken rule of a small tree, and nothing in a tree that keeps them."""
import pathlib
import subprocess
import sys

import pytest

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "check_house.py"
OPENING = "// Adds numbers, two at a time.\n"
GOOD = {
    "CMakeLists.txt": "add_subdirectory(base)\nadd_subdirectory(model)\nadd_subdirectory(kernels)\n",
    "docs/design.md": "# Design\n",
    "base/CMakeLists.txt": "h2o_library(h2o_base SRCS a.cc)\n",
    "base/a.h": "",
    "base/a.cc": OPENING + '#include "base/a.h"\n',
    "model/CMakeLists.txt": "h2o_library(h2o_model SRCS m.cc DEPS h2o_base)\n",
    "model/m.h": "",
    "model/m.cc": OPENING + '#include "base/a.h"\n#include "model/m.h"\n',
}


def large(name, lines=260):
    return f"class {name} {{\n" + "  int x;  // }\n" * lines + "};\n"


def listing(name, lines):
    return f"## Large classes\n| class | lines | why |\n| `{name}` | {lines} | one story |\n"


def member(name, lines):
    return f"int {name}::Get() const {{\n" + "  ++x;\n\n" * lines + "}\n"


def check(folder, files):
    for name, text in {**GOOD, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    run = subprocess.run([sys.executable, TOOL, folder], stdout=subprocess.PIPE, text=True)
    assert run.returncode == (0 if "in order" in run.stdout else 1)
    return run.stdout


@pytest.mark.parametrize("files", [
    {},
    {"base/a.h": large("Big"), "docs/design.md": listing("Big", 270)},
    {"base/a.h": large("Two", 200), "model/m.h": large("Two", 200)},  # of one name
    {"base/a.h": large("A", 100), "base/a.cc": OPENING + '#include "base/a.h"\n' + member("A", 100)},
])
def test_a_house_in_order(tmp_path, files):
    assert check(tmp_path, files) == "the house is in order\n"


@pytest.mark.parametrize("files, says", [
    ({"base/a.cc": '#include "base/a.h"\n'}, "base/a.cc:1: open with a comment"),
    ({"base/a.h": '#include "base/b.h"\n', "base/b.h": '#include "base/a.h"\n'}, "base/a.h includes base/b.h includes base/a.h"),
    ({"base/a.h": large("Big")}, "base/a: class Big has 261 lines"),
    ({"kernels/k.h": large("Kernel")}, "kernels/k: class Kernel has 261 lines"),
    ({"base/a.h": large("A", 100), "base/a.cc": OPENING + '#include "base/a.h"\n' + member("A", 200)}, "base/a: class A has 302 lines"),
    ({"base/a.h": large("A", 10), "base/a.cc": OPENING + '#include "base/a.h"\n' + large("A::Impl")}, "base/a: class A has 272 lines"),
    ({"base/a.h": large("Big"), "docs/design.md": listing("Big", 400)}, "class Big has 261 lines, not 400"),
    ({"base/a.h": large("Small", 10), "docs/design.md": listing("Small", 260)}, "Small is no large class; it has 11 lines"),
    ({"model/CMakeLists.txt": "h2o_library(h2o_model SRCS m.cc)\n"}, "h2o_model includes base/a.h but links none of h2o_base"),
    ({"model/m.cc": OPENING}, "h2o_model links h2o_base but includes none of its headers"),
])
def test_a_broken_rule_is_named(tmp_path, files, says):
    assert says in check(tmp_path, files)
