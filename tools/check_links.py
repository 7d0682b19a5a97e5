#!/usr/bin/env python3
"""Checks that every relative link and every #anchor in the repository's Markdown files leads somewhere."""
import pathlib
import re
import subprocess
import sys

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|<(?:img|source)[^>]*src(?:set)?=\"([^\"]+)\"")
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def anchors(text):
    """The names that GitHub gives the headings."""
    found = set()
    for heading in HEADING.findall(CODE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (candidate := f"{name}-{number}" if number else name) in found:
            number += 1
        found.add(candidate)
    return found


def problems(root, files):
    for path in files:
        text = CODE.sub("", path.read_text())
        for match in LINK.finditer(text):
            target = match.group(1) or match.group(2)
            if re.match(r"[a-z]+:", target):  # https:, mailto:
                continue
            name, _, anchor = target.partition("#")
            other = (path.parent / name).resolve() if name else path
            if not other.exists():
                yield f"{path.relative_to(root)}: {target}: there is no such file"
            elif anchor and other.suffix == ".md" and anchor not in anchors(other.read_text()):
                yield f"{path.relative_to(root)}: {target}: {other.name} has no such heading"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", "*.md"],
                            stdout=subprocess.PIPE, text=True)
    files = [root / name for name in listed.stdout.splitlines() if (root / name).exists()]
    if not files:  # not a checkout
        files = [path for path in sorted(root.rglob("*.md")) if "build" not in path.parts]
    found = list(problems(root, files))
    for line in found:
        print(line)
    print(f"{len(found)} links lead nowhere" if found else f"all links of {len(files)} files lead somewhere")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
