#!/usr/bin/env python3
"""Checks rules of this repository that a compiler does not know:

  opening   every .cc and .cu file opens with a comment that says what it is for
  circles   no header includes itself by way of others
  classes   a class over 250 lines of code, with its member functions wherever
            they stand, is in the table "Large classes" of docs/design.md, with
            its reason and its lines, within a tenth; no other one is
  links     a library of CMakeLists.txt links the libraries whose headers it
            includes, and no others

  tools/check_house.py [ROOT [RULE...]]     all rules, unless some are named
"""
import pathlib
import re
import sys

MAX_CLASS_LINES = 250
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def rooms(root):
    """The folders that the top CMakeLists.txt adds."""
    return re.findall(r"^\s*add_subdirectory\((\w+)\)", (root / "CMakeLists.txt").read_text(), re.M)


def sources(root, *suffixes):
    """(name, text) of all files of the rooms with these suffixes."""
    for room in rooms(root):
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


def end_of_block(text, begin):
    """Where the block ends that is open at `begin`."""
    depth = 1
    for end in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return end
    return len(text)


CLASS = re.compile(r"^[ \t]*(?:template\s*<[^;{}]*>\s*)?(?:class|struct)\s+(?:\[\[.*?\]\]\s*)?((?:\w+::)*\w+)[^;{}()=]*\{", re.M)
# A function that is defined outside of its class; it may have a list of initializers.
MEMBER = re.compile(r"^(?!\s)[^\n;{}#]*?\b((?:\w+::)+)~?\w+\([^;{}]*\)[^;{}]*(?::[^;{}]*(?:\{[^{}]*\}[^;{}]*)*)?\{", re.M)


def class_parts(text):
    """(class, lines of code) of every class body, and of every member function outside of one."""
    text = without_comments_and_strings(text)
    for pattern in (CLASS, MEMBER):
        for match in pattern.finditer(text):
            part = text[match.start():end_of_block(text, match.end())]
            lines = sum(1 for line in part.splitlines() if line.strip())
            # An Impl counts as the class that hides it.
            names = [name for name in match.group(1).split("::") if name]
            yield names[0] if names[-1] == "Impl" else names[-1], lines


def class_lines(root):
    """(file without its ending, class) -> lines of code."""
    lines = {}
    for name, text in sources(root, ".h", ".cuh", ".cc", ".cu"):
        for class_name, count in class_parts(text):
            at = name.rsplit(".", 1)[0], class_name
            lines[at] = lines.get(at, 0) + count
    return lines


def listed_classes(root):
    """class -> lines, of the table under "Large classes" of docs/design.md."""
    section = re.search(r"^#+ Large classes\n(.*?)(?=^#|\Z)", (root / "docs" / "design.md").read_text(), re.M | re.S)
    rows = re.findall(r"^\| `(\w+)`[^|]*\| (\d+) \|", section.group(1), re.M) if section else ()
    return {name: int(lines) for name, lines in rows}


def check_classes(root):
    listed = listed_classes(root)
    largest = {}
    for (stem, class_name), lines in class_lines(root).items():
        largest[class_name] = max(lines, largest.get(class_name, 0))
        if lines > MAX_CLASS_LINES and class_name not in listed:
            yield (f"{stem}: class {class_name} has {lines} lines; at most {MAX_CLASS_LINES}, or a line with the reason under "
                   "\"Large classes\" of docs/design.md")
    for class_name, told in listed.items():
        lines = largest.get(class_name, 0)
        if lines <= MAX_CLASS_LINES * 0.9:
            yield f"docs/design.md: {class_name} is no large class; it has {lines} lines"
        elif abs(lines - told) > told / 10:
            yield f"docs/design.md: class {class_name} has {lines} lines, not {told}"


# ---- links

class Library:
    def __init__(self, folder):
        self.folder = folder
        self.sources, self.public, self.private = [], [], []
        self.is_program = False


def read_libraries(root):
    """name -> Library, of what h2o_library and h2o_binary make and what is added to it later."""
    libraries = {}
    for room in rooms(root):
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
