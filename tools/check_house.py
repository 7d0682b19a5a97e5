#!/usr/bin/env python3
"""Checks rules of this repository that a compiler does not know:

  opening   every .cc and .cu file opens with a comment that says what it is for
  circles   no header includes itself by way of others
  classes   no class body outside kernels/ is over 250 lines, but those that the
            table "Large classes" of docs/design.md lists with a reason
  links     a library of CMakeLists.txt links the libraries whose headers it
            includes, and no others

  tools/check_house.py [ROOT [RULE...]]     all rules, unless some are named
"""
import pathlib
import re
import sys

ROOMS = ("access", "api", "base", "bench", "chat", "clients", "coordinator", "embedded", "flags", "http", "kernels", "kv", "model", "parallel", "proto",
         "tests", "web", "worker")
MAX_CLASS_LINES = 250
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def sources(root, *suffixes):
    """(name, text) of all files of the rooms with these suffixes."""
    for room in ROOMS:
        for path in sorted((root / room).rglob("*")):
            if path.suffix in suffixes:
                yield path.relative_to(root).as_posix(), path.read_text()


# ---- opening

def check_opening(root):
    for name, text in sources(root, ".cc", ".cu"):
        comment = re.match(r"(//[^\n]*\n)+", text)
        # A sentence: it begins with a capital or a name in quotes and ends with a full stop.
        words = comment and " ".join(line.removeprefix("//").strip() for line in comment.group().splitlines())
        if not words or not re.search(r"[.:](\s|$)", words) or len(words) < 20:
            yield f"{name}:1: open with a comment of a sentence that says what the file is for"


# ---- circles

def check_circles(root):
    included = {name: [other for other in INCLUDE.findall(text)] for name, text in sources(root, ".h", ".cuh")}
    done, path = set(), []

    def visit(name):
        if name in path:
            yield " includes ".join(path[path.index(name):] + [name])
            return
        if name in done or name not in included:
            return
        path.append(name)
        for other in included[name]:
            yield from visit(other)
        path.pop()
        done.add(name)

    for name in included:
        yield from visit(name)


# ---- classes

def without_comments_and_strings(text):
    """The text with blanks for comments and literals, line for line."""
    pattern = r'//[^\n]*|/\*.*?\*/|R"\(.*?\)"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\''
    return re.sub(pattern, lambda match: "\n" * match.group().count("\n"), text, flags=re.S)


def class_bodies(text):
    """(name, first line, lines) of every class and struct with a body."""
    text = without_comments_and_strings(text)
    for match in re.finditer(r"^[ \t]*(?:template\s*<[^;{}]*>\s*)?(?:class|struct)\s+(?:\[\[.*?\]\]\s*)?"
                             r"(\w+)[^;{}()=]*\{", text, re.M):
        depth = 1
        for end in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                break
        first = text.count("\n", 0, match.start()) + 1
        yield match.group(1), first, text.count("\n", match.start(), end) + 1


def excused_classes(root):
    """Names in the first column of the table under "Large classes" of docs/design.md."""
    section = re.search(r"^#+ Large classes\n(.*?)(?=^#|\Z)", (root / "docs" / "design.md").read_text(), re.M | re.S)
    return set(re.findall(r"^\| `(\w+)`", section.group(1), re.M)) if section else set()


def check_classes(root):
    excused = excused_classes(root)
    for name, text in sources(root, ".h", ".cc"):
        if name.startswith("kernels/"):
            continue
        for class_name, line, lines in class_bodies(text):
            if lines > MAX_CLASS_LINES and class_name not in excused:
                yield (f"{name}:{line}: class {class_name} has {lines} lines; at most {MAX_CLASS_LINES}, or a line with a reason "
                       "under \"Large classes\" of docs/design.md")


# ---- links

class Library:
    def __init__(self, folder):
        self.folder = folder
        self.sources, self.public, self.private = [], [], []
        self.is_program = False


def read_libraries(root):
    """name -> Library, of what h2o_library and h2o_binary make and what is added to it later."""
    libraries = {}
    for room in ROOMS:
        if room == "tests":
            continue
        for path in sorted((root / room).rglob("CMakeLists.txt")) + sorted((root / room).rglob("*.cmake")):
            folder = path.parent.relative_to(root).as_posix()
            text = re.sub(r"#[^\n]*", "", path.read_text())
            for function, arguments in re.findall(r"(\w+)\s*\(([^()]*(?:\([^()]*\)[^()]*)*)\)", text):
                words = arguments.split()
                if function in ("h2o_library", "h2o_binary"):
                    library = libraries.setdefault(words[0], Library(folder))
                    library.is_program = function == "h2o_binary"
                    place = None
                    for word in words[1:]:
                        if word in ("SRCS", "DEPS", "PRIVATE_DEPS"):
                            place = {"SRCS": library.sources, "DEPS": library.public, "PRIVATE_DEPS": library.private}[word]
                        else:
                            place.append(word)
                elif function in ("target_sources", "target_link_libraries") and words[0] in libraries:
                    library, place = libraries[words[0]], None
                    for word in words[1:]:
                        if word in ("PUBLIC", "PRIVATE", "INTERFACE"):
                            links = library.public if word == "PUBLIC" else library.private
                            place = library.sources if function == "target_sources" else links
                        else:
                            place.append(word)
    return libraries


def owners_of_headers(root, libraries):
    """header -> the libraries that may own it: the one that compiles its .cc, or any of its room."""
    compiled = {}
    for name, library in libraries.items():
        for source in library.sources:
            compiled.setdefault(f"{library.folder}/{source}".rsplit(".", 1)[0], name)
    owners = {}
    for header, _ in sources(root, ".h", ".cuh"):
        stem, room = header.rsplit(".", 1)[0], header.split("/")[0]
        headers_only = "h2o_" + stem.rsplit("/", 1)[1]
        if stem in compiled:
            owners[header] = {compiled[stem]}
        elif headers_only in libraries and not libraries[headers_only].sources:
            owners[header] = {headers_only}
        else:
            owners[header] = {name for name, library in libraries.items() if library.folder == room}
    return owners


def check_links(root):
    libraries = read_libraries(root)
    owners = owners_of_headers(root, libraries)
    texts = dict(sources(root, ".h", ".cuh", ".cc", ".cu"))

    def reach(name, seen):
        """What a library passes on to the libraries that link it, itself included."""
        if name in libraries and name not in seen:
            seen.add(name)
            for other in libraries[name].public + (libraries[name].private if libraries[name].is_program else []):
                reach(other, seen)
        return seen

    for name, library in libraries.items():
        own = {f"{library.folder}/{source}" for source in library.sources}
        own |= {header for header, who in owners.items() if who == {name}}
        included = {header for file in own for header in INCLUDE.findall(texts.get(file, "")) if header in owners}
        linked = {other for other in library.public + library.private if other in libraries}
        reached = set().union({name}, *(reach(other, set()) for other in linked))
        for header in sorted(included):
            if not owners[header] & reached:
                yield f"{library.folder}: {name} includes {header} but links none of {', '.join(sorted(owners[header]))}"
        for other in sorted(linked):
            # Within a room a library may define what the header of another one declares, or hand it on.
            hands_on = {name for name in reach(other, set()) if libraries[name].folder == libraries[other].folder}
            if libraries[other].folder != library.folder and not any(owners[header] & hands_on for header in included):
                yield f"{library.folder}: {name} links {other} but includes none of its headers"


RULES = {"opening": check_opening, "circles": check_circles, "classes": check_classes, "links": check_links}


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    found = [f"{problem} [{rule}]" for rule in sys.argv[2:] or RULES for problem in RULES[rule](root)]
    for line in found:
        print(line)
    print(f"{len(found)} rules are broken" if found else "the house is in order")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
