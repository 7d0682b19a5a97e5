"""The package: its types and style, what is built of it, and that it runs where nothing else is."""
import pathlib
import re
import subprocess
import tarfile
import venv
import zipfile

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "clients" / "python"
PYPI = REPOSITORY / "build" / "pypi"
TOOLS = PYPI / "venv" / "bin"


def run(*command, cwd=PACKAGE):
    done = subprocess.run(list(map(str, command)), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def tools():
    if not (PYPI / "installed.txt").exists():
        pytest.skip("no packages from PyPI; tools/install_dependencies.sh --pypi")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    run(TOOLS / "python3", "-m", "build", "--no-isolation", "--outdir", folder)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def test_generated_modules_are_those_of_the_interface():
    run(REPOSITORY / "tools" / "make_python_stubs.sh", "--check")


def test_types():
    program = pathlib.Path(__file__).parent / "typed_program.py"
    run(TOOLS / "mypy", "--cache-dir", PYPI / "mypy_cache", "src", program)


def test_style():
    run(TOOLS / "ruff", "check", "--no-cache", "src")


def test_the_version_is_the_repositorys(built):
    cmake = re.search(r"project\(h2oserve[^)]*VERSION ([\d.]+)", (REPOSITORY / "CMakeLists.txt").read_text()).group(1)
    assert [path.name for path in built] == [f"h2oserve-{cmake}-py3-none-any.whl", f"h2oserve-{cmake}.tar.gz"]
    assert (PACKAGE / "LICENSE").read_text() == (REPOSITORY / "LICENSE").read_text()


def test_what_is_in_the_archives(built):
    sources = {path.relative_to(PACKAGE / "src").as_posix() for path in (PACKAGE / "src").rglob("*")
               if path.is_file() and path.suffix != ".pyc"}
    assert {"h2oserve/py.typed", "h2oserve/v1/inference_pb2.pyi"} <= sources
    in_wheel = set(zipfile.ZipFile(built[0]).namelist())
    assert sources == {name for name in in_wheel if ".dist-info/" not in name}
    in_sdist = {name.split("/", 1)[1] for name in tarfile.open(built[1]).getnames()}
    assert {f"src/{name}" for name in sources} | {"pyproject.toml", "README.md", "LICENSE"} <= in_sdist


def test_the_wheel_runs_in_an_environment_of_its_own(built, tmp_path):
    """With the newest gRPC; elsewhere the tests run with Debian's, the oldest."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python3"
    run(TOOLS / "pip", "--disable-pip-version-check", "--python", python, "install", "-q", "--no-index", "--find-links",
        PYPI / "wheels", built[0], "pytest")
    where = run(python, "-c", "import h2oserve, grpc; print(h2oserve.__file__, grpc.__version__)", cwd=tmp_path)
    assert where.startswith(str(tmp_path))
    tests = pathlib.Path(__file__).parent
    run(python, "-W", "error::DeprecationWarning", "-m", "pytest", "-q", "-p", "no:cacheprovider",
        tests / "test_python_client.py", tests / "test_python_parts.py", cwd=tmp_path)
