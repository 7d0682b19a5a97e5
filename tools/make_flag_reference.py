#!/usr/bin/env python3
"""Writes docs/flags.md, the reference of every flag, from the programs' own --help.

    tools/make_flag_reference.py [--bin build/release/bin]            writes docs/flags.md
    tools/make_flag_reference.py [--bin build/release/bin] --check    exits 1 if docs/flags.md is not what it would write

Needs a build with gRPC: without it there is no coordinator and no worker.
"""
import argparse
import pathlib
import re
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
REFERENCE = REPOSITORY / "docs" / "flags.md"
INTRODUCTION = """\
# Every flag

Made from the programs' own `--help` by `tools/make_flag_reference.py`; a test fails when a program says something else.
`--help` and `--version` are there everywhere and are left out. Words such as *slot*, *group* and *step* are explained in
the [glossary](glossary.md).
"""


def help_of(binary, *command):
    """The help of a program or of one of its commands."""
    # The default of --cache-dir is below HOME.
    done = subprocess.run([str(binary), *command, "--help"], stdout=subprocess.PIPE, text=True,
                          env={"HOME": "~", "PATH": "/usr/bin:/bin"})
    if done.returncode:
        sys.exit(f"{binary} {' '.join(command)} --help: exit {done.returncode}")
    return done.stdout


def entries(text, heading):
    """[(first column, description)] of the list below `heading` in CLI11's help."""
    found, inside = [], False
    for line in text.splitlines():
        if not line.startswith(" "):
            inside = line == heading
        elif inside and line.startswith(" " * 10):
            found[-1][1] += " " + line.strip()
        elif inside:
            # The description begins in column 30, on the same line where the first column is short.  A long one
            # may have its default, "[auto]", or the middle of a range, "[1 - 9]", there.
            whole = line[:30].count("[") == line[:30].count("]")
            short = line[29:30] == " " and whole and not re.fullmatch(r"\[[^\]]*\]( REQUIRED)?", line[30:].strip())
            first, description = (line[:30], line[30:]) if short else (line, "")
            found.append([first.strip(), description.strip()])
    return [(first, description.strip()) for first, description in found]


def parse_option(first):
    """'--grace S=30' -> ('--grace', 'S', '30', False); CLI11 from 2.2 on writes '[30]' instead of '=30'."""
    name, _, rest = first.partition(" ")
    rest = re.sub(r" *(Excludes|Needs): *(--[\w-]+ *)+", "", rest)
    required = "REQUIRED" in rest
    rest = rest.replace("REQUIRED", "").replace(" ...", "").strip()
    # A range as the type: what is wrong is told by the program.
    rest = re.sub(r":(FLOAT|INT) in \[[^\]]*\]|:(POSITIVE|NONNEGATIVE)", "", rest)
    default = ""
    if found := re.fullmatch(r"(\S*) *\[(.*)\]", rest) or re.fullmatch(r"([^=]*)=(.*)", rest):
        rest, default = found.groups()
    choices = re.fullmatch(r"TEXT:\{(.*)\}", rest)
    return name, choices.group(1).replace(",", r" \| ") if choices else rest, default, required


def section(title, text):
    description = text.splitlines()[0]
    lines = [f"## {title}", "", f"{description}.", "", "| flag | value | default | meaning |", "|---|---|---|---|"]
    for first, meaning in entries(text, "Options:"):
        name, kind, default, required = parse_option(first)
        if name in ("-h,--help", "--version"):
            continue
        default = "required" if required else f"`{default}`" if default else ""
        kind = f"`{kind}`" if kind else ""
        lines.append(f"| `{name}` | {kind} | {default} | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def reference(folder):
    parts = [INTRODUCTION]
    h2oserve = folder / "h2oserve"
    commands = [name for name, _ in entries(help_of(h2oserve), "Subcommands:")]
    sections = [(f"h2oserve {command}", help_of(h2oserve, command)) for command in commands]
    sections += [(name, help_of(folder / name)) for name in ("h2oserve-coordinator", "h2oserve-worker")]
    links = [f"[{title}](#{title.replace(' ', '-')})" for title, _ in sections]
    parts.append(", ".join(links) + ".\n")
    return "\n".join(parts + [section(title, text) for title, text in sections])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--bin", type=pathlib.Path, default=REPOSITORY / "build" / "release" / "bin")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if docs/flags.md is stale")
    arguments = parser.parse_args()
    for program in ("h2oserve", "h2oserve-coordinator", "h2oserve-worker"):
        if not (arguments.bin / program).exists():
            sys.exit(f"{arguments.bin / program} is not there: build it or give --bin")
    text = reference(arguments.bin)
    if not arguments.check:
        REFERENCE.write_text(text)
        print(f"wrote {REFERENCE.relative_to(REPOSITORY)}")
        return 0
    if REFERENCE.exists() and REFERENCE.read_text() == text:
        return 0
    print("docs/flags.md is not what the programs' --help says; run tools/make_flag_reference.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
