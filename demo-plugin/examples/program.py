#!/usr/bin/env python3
"""program.py SERVER DOCUMENT_SET_ID API_TOKEN OUTPUT_FILENAME - a program in Python.

Progress goes to stdout, a line each, flushed at once; what went wrong goes to stderr, with an exit
status that is not 0; the result goes to the file that the fourth argument names.
"""
import json
import sys
import time


def main(server, document_set_id, api_token, output_filename):
    documents = ["first", "second", "third"]
    lengths = {}
    for done, name in enumerate(documents, 1):
        time.sleep(0.1)
        lengths[name] = len(name)
        print(f"{done}/{len(documents)}\tread {name}", flush=True)
    with open(output_filename, "w", encoding="utf-8") as output:
        json.dump({"documentSet": document_set_id, "lengths": lengths}, output)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit("usage: program.py SERVER DOCUMENT_SET_ID API_TOKEN OUTPUT_FILENAME")
    main(*sys.argv[1:])
