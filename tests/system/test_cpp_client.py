"""The C++ client as others use it: from an installed folder, with no gRPC in sight. Snippets of the docs are run."""
import re
import shutil
import subprocess

import pytest

from conftest import PATIENCE, REPOSITORY

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
HEADER = "h2oserve/client.h"


def run(command, **options):
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=PATIENCE,
                          **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def build(installed, tmp_path):
    """Compiles a text; returns the program."""
    def compile(text):
        source, program = tmp_path / "program.cc", tmp_path / "program"
        source.write_text(text)
        library = installed / "lib"
        flags = run(["pkg-config", "--cflags", "--libs", "h2oserve"], env={"PKG_CONFIG_PATH": str(library / "pkgconfig"),
                                                                            "PATH": "/usr/bin:/bin"}).split()
        run(["g++", "-std=c++17", *WARNINGS, source, *flags, f"-Wl,-rpath,{library}", "-o", program])
        return program
    return compile


def snippets(page):
    return re.findall(r"^```cpp\n(.*?)^```", (REPOSITORY / page).read_text(), re.M | re.S)


@pytest.mark.parametrize("page", ["README.md", "docs/clients-cpp.md"])
def test_the_whole_programs_of_the_docs(build, shared, page):
    programs = [text for text in snippets(page) if "int main" in text]
    assert programs
    for text in programs:
        answer = run([build(text.replace("127.0.0.1:50051", shared.address))])
        assert answer.strip(), "it prints the answer"


def test_the_pieces_of_the_docs_are_one_program(build, shared):
    pieces = [text for text in snippets("docs/clients-cpp.md") if "int main" not in text]
    headers = f"#include <{HEADER}>\n#include <future>\n#include <iostream>\n"
    text = headers + "int main() {\n" + "".join(pieces) + "}\n"
    out = run([build(text.replace("127.0.0.1:50051", shared.address))])
    assert "6 layers" in out and "fits now" in out and "ready" in out and '"groups"' in out, out


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize("standard", [17, 20])
def test_the_header_compiles_alone(installed, compiler, standard):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    run([compiler, f"-std=c++{standard}", *WARNINGS, f"-I{installed / 'include'}", "-x", "c++", "-fsyntax-only", "-"],
        input=f"#include <{HEADER}>\n")


def test_nothing_of_other_libraries_shows(installed):
    """So that a program may have its own gRPC and OpenSSL."""
    text = (installed / "include" / HEADER).read_text()
    assert not re.search(r"#include.*(grpc|protobuf|absl)|\b(grpc|google|absl)::", text)
    library = installed / "lib" / "libh2oserve_client.so"
    symbols = re.findall(r"^\S+ \w (.*)$", run(["nm", "-DC", "--defined-only", library]), re.M)
    assert any("h2o::client_v0::Client::Generate" in symbol for symbol in symbols)
    assert [symbol for symbol in symbols if "h2o::client_v0::" not in symbol] == []
    needs = run(["ldd", library])
    assert "not found" not in needs and not re.search(r"lib(grpc|ssl|crypto)", needs)
