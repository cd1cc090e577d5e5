"""test_search.py - what the example plugin finds, and what it says of it."""

import base64
import json
import re
import unittest
from urllib.parse import quote, urlencode

from harness import ROOT, basic
from test_plugin import SampleTest

PAIRS = ROOT / "tests" / "demo" / "pairs.tsv"


def read_pairs():
    """(line number, language, query, text, whether it is found, why)"""
    def plain(text):
        text = re.sub(r"\\u([0-9a-f]{4})", lambda m: chr(int(m[1], 16)), text)
        return text.replace("\\n", "\n").replace("\\r", "\r")
    for number, line in enumerate(PAIRS.read_text().splitlines(), 1):
        if line and line[0] != "#":
            language, query, text, found, whose, why = line.split("\t")
            assert found in ("found", "not") and whose in ("both", "overview", "ours"), line
            yield number, language, plain(query), plain(text), found == "found", why


def bits_of(answer):
    """The lower halves of the ids in documentIdsBitSetBase64, as Overview reads it."""
    text = answer["documentIdsBitSetBase64"]
    data = base64.b64decode(text, validate=True)
    return {8 * i + bit for i, byte in enumerate(data) for bit in range(8) if byte & 0x80 >> bit}


class FindTest(SampleTest):
    """A plugin that has indexed the documents of `texts`."""

    def index(self, texts, **options):
        """Their ids are 1, 2, ... below 2**32, in order."""
        self.sample = self.folder / "texts"
        self.sample.mkdir()
        for number, text in enumerate(texts, 1):
            (self.sample / f"{number:07}.txt").write_text(text, newline="")
        self.server = self.serve_sample(**options)
        self.assertEqual(self.generate(self.server).last()["returncode"], 0)

    def ask(self, query, token="sample", **more):
        fields = {"server": self.server.base, "documentSetId": "1", "q": query, **more}
        return self.server.ask("GET", "/search?" + urlencode(fields, quote_via=quote),
                               {"Authorization": basic(token)})

    def find(self, query, **more):
        head, body = self.ask(query, **more)
        self.assertEqual(head.status, 200, (query, body))
        return json.loads(body)

    def found(self, query):
        """The numbers of the documents."""
        answer = self.find(query, bits=1)
        self.assertTrue(answer["complete"], answer)
        bits = bits_of(answer)
        self.assertEqual(len(bits), answer["total"], query)
        return bits


class PairsTest(FindTest):
    def test_pairs(self):
        """Q2, Q3, Q5, Q7, Q10: the table of what is found, in all its languages."""
        pairs = list(read_pairs())
        self.assertGreaterEqual(len({language for _, language, *_ in pairs}), 20)
        self.index([text for _, _, _, text, _, _ in pairs])
        for number, (line, language, query, text, found, why) in enumerate(pairs, 1):
            with self.subTest(f"pairs.tsv:{line}", query=query):
                self.assertEqual(number in self.found(query), found, (language, text, why))
