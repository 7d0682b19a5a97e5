"""The C++ client as others use it: from an installed folder, with no gRPC in sight. Snippets of the docs are run."""
import hashlib
import json
import os
import re
import shutil
import signal
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


STREAMS_TOKENS = """
#include <h2oserve/client.h>

#include <iostream>

int main(int, char** argv) {
  h2o::ClientOptions options;
  options.server = argv[1];
  h2o::GenerateRequest request;
  request.prompt = "To install the package,";
  request.max_tokens = 400;
  request.ignore_eos = true;
  request.temperature = 0.8f;
  request.seed = 11;
  h2o::TokenStream stream = h2o::Client::Connect(options)->Stream(request);
  int resumes = 0;
  while (const auto piece = stream.Next()) {
    for (const int token : piece->tokens) std::cout << token << std::endl;
    resumes = piece->resumes;
  }
  if (stream.error()) std::cerr << stream.error()->ToString();
  std::cerr << resumes << " resumes\\n";
}
"""


def test_a_stream_outlives_the_workers(build, system):
    """Where the server itself replays nothing."""
    serve = system.serve("--replay", "off", tp=1)
    client = system.client(serve)
    whole = client.generate("To install the package,", max_tokens=400, ignore_eos=True, sampling=dict(temperature=0.8, seed=11))
    with subprocess.Popen([build(STREAMS_TOKENS), serve.address()], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as program:
        tokens = [int(program.stdout.readline()) for _ in range(3)]
        os.kill(serve.workers()[0], signal.SIGKILL)
        tokens += map(int, program.stdout)
        err = program.stderr.read()
    assert err.endswith(" resumes\n") and not err.startswith("0 "), err
    assert tokens == whole.tokens


SHOWS_A_CERTIFICATE_AND_A_KEY = """
#include <h2oserve/client.h>

#include <iostream>

template <typename T>
void Tell(const h2o::Expected<T>& got) {
  std::cout << (got ? "OK" : got.error().ToString()) << "\\n";
}

int main(int, char** argv) {
  h2o::ClientOptions options;
  options.server = argv[1];
  options.tls.ca = argv[2];
  options.tls.certificate = argv[3];
  options.tls.key = argv[4];
  options.api_key = argv[5];
  options.retry.enabled = false;
  const h2o::Client client = *h2o::Client::Connect(options);
  h2o::GenerateRequest request;
  request.prompt = "a";
  request.max_tokens = 2;
  Tell(client.IsReady());
  Tell(client.Generate(request));
  Tell(client.GetStatus());
}
"""


def test_certificates_and_keys(build, system, tmp_path):
    pytest.importorskip("cryptography", reason="no cryptography; apt install python3-cryptography")
    from certificates import Authority
    ours, others = Authority(tmp_path, "ours"), Authority(tmp_path, "others")
    server, mine, stranger = ours.issue("server"), ours.issue("client"), others.issue("stranger")
    row = {"name": "a", "sha256": hashlib.sha256(b"secret").hexdigest()}
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [row]}))
    serve = system.serve("--tls-cert", server.certificate, "--tls-key", server.key, "--tls-client-ca", ours.path,
                         "--api-keys", tmp_path / "keys.json", "--http", "off", tp=1)
    program = build(SHOWS_A_CERTIFICATE_AND_A_KEY)

    def codes(ca, pair, key):
        out = run([program, serve.address(), ca.path, pair.certificate, pair.key, key])
        return [line.split(":")[0] for line in out.splitlines()]

    assert codes(ours, mine, "secret") == ["OK", "OK", "PERMISSION_DENIED"]
    assert codes(ours, mine, "wrong") == ["OK", "UNAUTHENTICATED", "UNAUTHENTICATED"]
    assert codes(ours, stranger, "secret") == ["UNAVAILABLE"] * 3
    assert codes(others, mine, "secret") == ["UNAVAILABLE"] * 3


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
