#!/usr/bin/env python3
"""test_layout.py - files are laid out as .editorconfig says: UTF-8, lines that end in a newline and not in blanks,
no tabs in front, indents as set.

    test_layout.py SOURCE
"""
import configparser
import subprocess
import sys
from pathlib import Path

SOURCE = Path(sys.argv[1])
AS_THEY_CAME = "tests/fuzz/seeds/", "tests/demo/"


def files():
    listed = subprocess.run(["git", "-C", SOURCE, "ls-files", "-z"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if not name.startswith(AS_THEY_CAME) and (SOURCE / name).is_file():
            yield name


def faults(name):
    data = (SOURCE / name).read_bytes()
    if b"\0" in data:
        return  # a picture, say
    try:
        text = data.decode()
    except UnicodeDecodeError:
        yield "not UTF-8"
        return
    if "\r" in text:
        yield "a carriage return"
    if text and not text.endswith("\n"):
        yield "no newline at its end"
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip():
            yield f"line {number} ends in a blank"
        if line.startswith("\t"):
            yield f"line {number} begins with a tab"


def main():
    settings = configparser.ConfigParser()
    settings.read_string("[top]\n" + (SOURCE / ".editorconfig").read_text())
    rules = {"charset": "utf-8", "end_of_line": "lf", "insert_final_newline": "true",
             "trim_trailing_whitespace": "true", "indent_style": "space"}
    wrong = [f".editorconfig: {name} is another" for name, value in rules.items() if settings["*"].get(name) != value]
    checked = list(files())
    if not checked:
        print("no files, as this is not a git repository")
        return 77
    wrong += [f"{name}: {fault}" for name in checked for fault in faults(name)]
    print(*wrong, f"{len(checked)} files", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
