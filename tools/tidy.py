#!/usr/bin/env python3
"""Runs clang-tidy 19 over the C++ files that build/release compiles, several at once.

    tools/tidy.py [--seconds N] [FILE...]

Files that changed last come first. A file that was clean is not looked at again until it, a header
of the repository that it includes, or .clang-tidy changes. --seconds bounds the time: then no more files
are begun, and the last line says how many are left.
"""
import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "release"
CLEAN = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "h2oserve" / "tidy"
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def compiled_files():
    commands = json.loads((BUILD / "compile_commands.json").read_text())
    files = {pathlib.Path(command["file"]) for command in commands if command["file"].endswith(".cc")}
    return {path.relative_to(ROOT).as_posix() for path in files if path.is_relative_to(ROOT) and not path.is_relative_to(BUILD)}


def by_last_change(files):
    """Files that are not committed come first, then those of the last commit, and so on."""
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    names = git("diff", "HEAD", "--name-only") + git("ls-files", "--others", "--exclude-standard")
    names += git("log", "--name-only", "--format=", "--max-count=300")
    place = {}
    for name in names:
        place.setdefault(name, len(place))
    return sorted(files, key=lambda name: (place.get(name, len(place)), name))


def with_headers(name, found):
    """The file and all that it includes of the repository; a generated header stands for its .proto file."""
    path = re.sub(r"(\.grpc)?\.pb\.h$", ".proto", name)
    if path not in found and (ROOT / path).is_file():
        found.add(path)
        for header in INCLUDE.findall((ROOT / path).read_text()):
            with_headers(header, found)
    return found


def key_of(name, version):
    digest = hashlib.sha256(version)
    for path in [".clang-tidy", "CMakeLists.txt", *sorted(with_headers(name, set()))]:
        digest.update(path.encode() + b"\0" + (ROOT / path).read_bytes())
    return CLEAN / digest.hexdigest()


def check(name, version, deadline):
    """None if there was no time, else whether the file is clean."""
    stamp = key_of(name, version)
    if stamp.exists():
        return True
    if time.monotonic() > deadline:
        return None
    run = subprocess.run(["clang-tidy-19", "-p", BUILD, "--quiet", name], cwd=ROOT, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
    if run.returncode == 0:
        CLEAN.mkdir(parents=True, exist_ok=True)
        stamp.touch()
        return True
    print(f"{run.stdout or run.stderr}", flush=True)
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("files", nargs="*")
    arguments = parser.parse_args()
    if not (BUILD / "compile_commands.json").exists():
        sys.exit("no build/release; run cmake --preset release && cmake --build --preset release --target h2o_proto_stubs")
    version = subprocess.run(["clang-tidy-19", "--version"], stdout=subprocess.PIPE, check=True).stdout
    files = arguments.files or by_last_change(compiled_files())
    deadline = time.monotonic() + arguments.seconds
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        clean = list(pool.map(lambda name: check(name, version, deadline), files))
    print(f"clang-tidy: {clean.count(True)} files are clean, {clean.count(False)} are not, {clean.count(None)} are left for later")
    return 1 if False in clean else 0


if __name__ == "__main__":
    sys.exit(main())
