#!/usr/bin/env python3
"""test_rooms.py - who may include whom, that files do not include each other in a circle, and that what is a file's
own has a name of its own within its library, so that the library can be built as one file (a unity build).

A room is a folder, and MAY says which others each may include; include lines are all that is read.
X.c and X.h are one module; what they include are its arrows, and no arrow leads back to where it
came from, over however many others. EXCEPTIONS are the violations that are still there: one that
is not needed any more fails too, so that the list only gets shorter.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
API = {"include/workqueue", "include/extend"}  # what every library of ours may know
MAY = {
    "util": {"include/workqueue"},
    **{room: API | {"util"} for room in ("process", "store", "journal", "stomp")},
    # its options are in remote.h
    "s3": API | {"util", "include/remote"},
    "core": API | {"util", "journal"},  # process and store by their tables in extend.h,
    "core/workqueue": API | {"util", "journal", "process", "store"},  # but where they are plugged in
    "http": API | {"util", "include/http"},
    "remote": API | {"util", "stomp", "s3", "include/remote"},
    # a packager has no public interface yet
    "command/packager": API | {"include/http", "include/remote", "remote"},
    "command/packager_http": API | {"include/http", "include/remote", "remote"},
    "command": API | {"include/http", "include/remote"},
    "demo-plugin": API | {"include/http", "include/remote"},
}

# "module > module": arrows that the table forbids, or without which there is a circle less.
EXCEPTIONS = {
    "workqueue/s3/store > workqueue/store/dir",
}


def modules():
    """{module: the modules that its files include}, by path without .c and .h."""
    files = [path for folder in ("workqueue", "demo-plugin", "include")
             for path in sorted((ROOT / folder).rglob("*.[ch]"))]
    arrows = {str(path.relative_to(ROOT).with_suffix("")): set() for path in files}
    for path in files:
        module = str(path.relative_to(ROOT).with_suffix(""))
        for kind, name in re.findall(r'^\s*#\s*include\s*(["<])([^">]+)', path.read_text(), re.M):
            name = name.removesuffix(".h")
            beside = str(path.parent.relative_to(ROOT) / name)
            for other in ("include/" + name,) if kind == "<" else (name, beside):
                if other in arrows and other != module:
                    arrows[module].add(other)
    return arrows


def room_of(module):
    """Of the rooms that the table knows: the longest name that fits; public headers are one each."""
    parts = Path(module).parts
    if parts[0] == "include":
        return "include/" + parts[-1]
    inside = "/".join(parts[1:] if parts[0] == "workqueue" else parts)
    while inside and inside not in MAY:
        inside = str(Path(inside).parent) if "/" in inside else ""
    return inside


def violations(arrows):
    """What the table forbids."""
    for module, others in arrows.items():
        room = room_of(module)
        if not room:
            yield f"{module}: its room is not in the table"
        for other in sorted(others):
            to = room_of(other)
            if to.split("/")[0] != room.split("/")[0] and to not in MAY.get(room, ()):
                yield f"{module} > {other}"


def reaches(arrows, start, goal):
    """Whether a way of arrows leads from start to goal."""
    seen, ways = set(), [start]
    while ways:
        module = ways.pop()
        if module == goal:
            return True
        if module not in seen:
            seen.add(module)
            ways.extend(arrows[module])
    return False


def check(arrows):
    """The sentences of what is wrong."""
    forbidden = set(violations(arrows))
    yield from (f"not allowed: {text}" for text in sorted(forbidden - EXCEPTIONS))
    without = {module: {other for other in others if f"{module} > {other}" not in EXCEPTIONS}
               for module, others in arrows.items()}
    for module, others in without.items():
        for other in sorted(others):
            if reaches(without, other, module):
                yield f"part of a circle: {module} > {other}"
    for text in sorted(EXCEPTIONS - forbidden):
        module, other = text.split(" > ")
        if other not in arrows.get(module, ()) or not reaches(without, other, module):
            yield f"no longer needed in EXCEPTIONS: {text}"


# ---- names that are a file's own ---------------------------------------------------------------------------------

LIBRARIES = (("core", "journal", "process", "store", "util"), ("http",), ("stomp", "s3", "remote"), ("command",))
OWN_NAMES = [
    (re.compile(r"^static [^;={(]*?\b(\w+)\("), "{}()"),
    (re.compile(r"^static [^;={(]*?\b(\w+)(?:\[[^\]]*\])*\s*(?:=|;)"), "{}"),
    (re.compile(r"^(?:typedef )?struct (\w+)\s*\{"), "struct {}"),
    (re.compile(r"^(?:typedef )?enum[^{;]*\{([^}]*)\}"), "{}"),
    (re.compile(r"^\}\s*(\w+);"), "{}"),
    (re.compile(r"^typedef [^;{]*?\b(\w+);"), "{}"),
]


def own_names(path):
    text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
    for pattern, form in OWN_NAMES:
        for match in re.finditer(pattern.pattern, text, re.M):
            for item in match[1].split(","):  # of an enum there are several
                if name := re.match(r"\w+", item.strip()):
                    yield form.format(name[0])


def check_names():
    for library in LIBRARIES:
        of = {}
        for room in library:
            for path in sorted((ROOT / "workqueue" / room).rglob("*.[ch]")):
                if path.parent.name != "guard":  # a program of its own
                    for name in set(own_names(path)):
                        of.setdefault(name, []).append(str(path.relative_to(ROOT)))
        yield from (f"two files have {name}: {' '.join(paths)}" for name, paths in of.items() if len(paths) > 1)


def main():
    arrows = modules()
    wrong = [*check(arrows), *check_names()]
    print(*wrong, f"{len(arrows)} modules, {len(EXCEPTIONS)} known exceptions", sep="\n")
    return 1 if wrong or len(arrows) < 50 else 0


if __name__ == "__main__":
    sys.exit(main())
