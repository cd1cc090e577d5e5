"""test_search.py - what the example plugin finds, and what it says of it."""

import base64
import itertools
import json
import os
import random
import re
import time
from urllib.parse import quote, urlencode

from harness import ROOT, Client, basic, plain_only, serve_http
from test_plugin import HEAD, PROCESS_DOCSET, FakeOverview, SampleTest

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


def busy():
    """How many want each processor: a deadline in seconds of processor time is so much longer."""
    return os.getloadavg()[0] / os.cpu_count()


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


CATS = ["cat", "cat dog", "dog cat", "cat bird dog", "moon", "cat moon", "nothing else",
        "CATS and catalogues", "the “cat” said: dog!"]


class ReaderTest(FindTest):
    """Q2, Q3, Q7: document sets as they are met, searched as those who read them do."""

    def read(self, name):
        folder = ROOT / "tests" / "demo" / name
        files = sorted(folder.glob("*.txt"))
        self.index([path.read_text() for path in files])
        return {path.stem: number for number, path in enumerate(files, 1)}

    def expect(self, name, searches):
        numbers = self.read(name)
        for query, stems in searches.items():
            with self.subTest(query):
                self.assertEqual(self.found(query), {numbers[stem] for stem in stems.split()})

    def test_scanned_pages(self):
        first, second, index = "harbour-1968-p12", "harbour-1968-p13", "index"
        self.expect("ocr", {
            "resolved": first, "construction": first, "breakwater": f"{first} {index}", "until": first, "budget": f"{first} {index}",
            "coming": first, "engineer": first, "first": first, "coffer": first, "office": first, "off": first, "harbour": f"{first} {second}",
            "1968": first, "“harbour dues”": first, '"put off until the budget of the coming year"': first,
            "orsted": second, "Ørsted's letter": second, "refers": second, '"dredging of the inner harbour"': second, "dredging": f"{second} {index}",
            "borings": second, "well-known": second, "caffe": second, "reflectors": second, "harbour -dredging": first, "zeppelin": ""})

    def test_chinese(self):
        self.expect("chinese", {
            "自由": "article1-simplified article1-traditional article3-simplified article19-simplified article23-simplified",
            "权利": "article1-simplified article19-simplified article23-simplified", "權利": "article1-traditional",
            "生而自由": "article1-simplified article1-traditional", "“一律平等”": "article1-simplified article1-traditional",
            "人身安全": "article3-simplified", "工作": "article23-simplified", "工会": "article23-simplified", "失业": "article23-simplified",
            "自由 -平等": "article3-simplified article19-simplified article23-simplified", "思想": "article19-simplified", "火星": "",
            "第一条": "article1-simplified", "自由 AND 安全": "article3-simplified", "世界人权宣言": "article1-simplified"})

    def test_arabic(self):
        every = "article1 article1-marked article3 article19 article26"
        self.expect("arabic", {
            "المادة": every, "مادة": every, "الناس": "article1 article1-marked", "ناس": "article1 article1-marked", "أحرارا": "article1 article1-marked",
            "احرارا": "article1 article1-marked", "الكرامة": "article1 article1-marked", "كرامه": "article1 article1-marked",
            "والحقوق": "article1 article1-marked", "الحقوق": "article1 article1-marked", "حرية": "article3 article19", "الحياة": "article3", "حياة": "article3",
            "19": "article19", "المادة ٣": "article3", '"حرية الرأي والتعبير"': "article19", "التعليم OR التعلم": "article26",
            "الحق -حرية": "article26", "إنسان": "article1", "كتاب": ""})


class HostileTest(FindTest):
    def test_any_text_in_any_query(self):
        """Whatever is typed or was scanned is answered."""
        chance = random.Random(7)
        alphabet = ("ab e\u0301 \u00ad\u200b\u200d\u0640\u064b\u05d0\u05b0\u0928\u094d\u0926\u4eac\u90fd\u3099\u30ab\uff76\uff9e\u0e01\u0e32\u1780\ufb03\ufdfa"
                    "\U0001f468\u200d\U0001f469\U0001f3fd\U0001f1e9\U0001f1ea\u2019'\"*()-:~/\\.\n\u2028\U00020000\ufffd\u0130\u1e9e\u0345")
        texts = ["".join(chance.choices(alphabet, k=chance.randrange(1, 400))) for _ in range(200)]
        self.index(texts + ["x" * 100000, "\u4eac" * 20000, "\u0e01" * 20000, "\u0301" * 5000, "a\u0301" * 5000, "\U0001f468\u200d" * 5000, "a-\n" * 5000])
        for _ in range(400):
            query = "".join(chance.choices(alphabet, k=chance.randrange(1, 30))).replace("\n", " ")
            with self.subTest(repr(query)):
                head, body = self.ask(query, bits=1, limit=100)
                self.assertIn(head.status, (200, 400))
                json.loads(body)
        for path, wrong in (("&limit=x", 400), ("&offset=-1", 400), ("&open=" + "x" * 17, 400), ("", 200)):
            self.assertEqual(self.server.ask("GET", f"/search?server={self.server.base}&documentSetId=1&q=a{path}",
                                             {"Authorization": basic("sample")})[0].status, wrong)


class QueryTest(FindTest):
    """Q4, Q5: queries as they are written in Overview, and what is told of those that are not."""

    def test_what_people_write(self):
        self.index(CATS)
        everything = set(range(1, len(CATS) + 1))
        for query, expected in {
                "cat dog": {2, 3, 4, 9}, "dog cat": {2, 3, 4, 9}, '"cat dog"': {2}, "“cat dog”": {2},
                "„cat dog“": {2}, "«cat dog»": {2}, "» cat dog «": {2}, "'cat dog'": {2}, "‘cat dog’": {2},
                '"cat dog': {2}, "cat-dog": {2}, "cat's": set(), "cat*": {1, 2, 3, 4, 6, 8, 9},
                '"dog ca*"': set(), '"dog ca"*': {3}, '"said dog"': {9},
                "cat AND moon": {6}, "cat and moon": {6}, "moon OR bird": {4, 5, 6}, "moon or bird": {4, 5, 6},
                "NOT cat": {5, 7, 8}, "not cat": {5, 7, 8}, "-cat": {5, 7, 8}, "−cat": {5, 7, 8},
                "cat NOT dog": {1, 6}, "cat AND NOT dog": {1, 6}, "cat -dog": {1, 6}, "-dog cat": {1, 6},
                "cat - dog": {2, 3, 4, 9}, "NOT NOT cat": everything - {5, 7, 8},
                "moon OR NOT cat": {5, 6, 7, 8}, "NOT cat AND NOT moon": {7, 8}, "NOT cat OR NOT dog": {1, 5, 6, 7, 8},
                "cat AND dog OR moon": {2, 3, 4, 5, 6, 9}, "moon OR cat AND dog": {2, 3, 4, 9},
                "moon OR (cat AND dog)": {2, 3, 4, 5, 6, 9}, "moon OR cat dog": {2, 3, 4, 5, 6, 9},
                "cat -(dog moon)": {1, 2, 3, 4, 6, 9}, "cat -(dog OR moon)": {1}, "cat AND (dog": {2, 3, 4, 9},
                "cat dog)": {2, 3, 4, 9}, '"AND"': {8}, '"nothing" "else"': {7}, "title:cat": set(),
                "title:0000003": {3}, "title:(0000003 OR 0000004)": {3, 4}, "Title:txt -title:0000001":
                everything - {1}, "text:cat": {1, 2, 3, 4, 6, 9}, "text:txt": set(), "title:txt moon": {5, 6},
                'title:"0000005 txt"': {5}, "12:30": set(), "http://x": set()}.items():
            with self.subTest(query):
                self.assertEqual(self.found(query), expected)

    def test_what_cannot_be_done_is_said(self):
        self.index(CATS)
        for query, word in {
                "cat~": "Similar", "cat~2": "Similar", '"cat dog"~3': "nearby", "/ca./": "slashes", "ca*s": "star",
                "notes:cat": "notes", "cat AND": "After AND", "OR cat": "Before OR", "NOT": "After NOT", "": "no word",
                "...": "no word", "*": "no word", "(": "no word", "cat AND ()": "After AND", " ".join(["cat"] * 33):
                "32 words", "(" * 50 + "cat": "parentheses", "-" * 50 + "cat": "signs", "x" * 3001: "3000"}.items():
            with self.subTest(query[:40]):
                head, body = self.ask(query)
                self.assertEqual(head.status, 400, body)
                self.assertIn(word, json.loads(body)["detail"])

    def test_any_expression(self):
        """Random expressions give what Python's sets give; and the list for Overview is the same."""
        chance = random.Random(15)
        words = ["ant", "bee", "cow", "dog", "eel"]
        texts = [" ".join(word for word in words if chance.random() < 0.4) for _ in range(60)]
        self.index(texts)
        everything = set(range(1, len(texts) + 1))
        having = {word: {i for i, text in enumerate(texts, 1) if word in text.split()} for word in words}

        def expression(depth):
            kind = chance.choice(["word", "not", "minus", "and", "or", "beside"]) if depth else "word"
            if kind == "word":
                word = chance.choice(words)
                return word, having[word]
            left, these = expression(depth - 1)
            if kind in ("not", "minus"):
                return ("NOT " if kind == "not" else "-") + f"({left})", everything - these
            right, those = expression(depth - 1)
            operator = {"and": " AND ", "or": " OR ", "beside": " "}[kind]
            return f"({left}){operator}({right})", these | those if kind == "or" else these & those
        for _ in range(150):
            query, expected = expression(3)
            with self.subTest(query):
                self.assertEqual(self.found(query), expected)


class AnswerTest(FindTest):
    """Q1, Q8, Q9, Q10, Q11: what an answer says is true."""

    def test_exact_spellings_first(self):
        self.index(["le cafe " * 3, "un café", "Łódź", "Lodz " * 2, "café cafe", "ميزانية", "الميزانية"])
        for query, (exact, others) in {
                "cafe": ({1, 5}, {2}), "café": ({2, 5}, {1}), "Lodz": ({4}, {3}), "łódź": ({3}, {4}),
                "ميزانية": ({6}, {7}), "الميزانية": ({7}, {6})}.items():
            with self.subTest(query):
                ids = [result["id"] - (1 << 32) for result in self.find(query)["results"]]
                self.assertEqual((set(ids[:len(exact)]), set(ids[len(exact):])), (exact, others))

    def test_pages_to_the_end(self):
        """Each document once, the order always the same."""
        self.index(["same words " + "again " * (i % 7) for i in range(130)])
        seen = []
        for offset in range(0, 140, 20):
            answer = self.find("same", offset=offset, limit=20)
            self.assertEqual((answer["total"], answer["complete"], answer["offset"]), (130, True, offset))
            seen += [result["id"] for result in answer["results"]]
        self.assertEqual(len(seen), 130)
        self.assertEqual(len(set(seen)), 130)
        whole = self.find("same", limit=100)["results"]
        self.assertEqual([result["id"] for result in whole], seen[:100])
        ranks = [result["rank"] for result in whole]
        self.assertEqual(ranks, sorted(ranks))
        self.assertEqual(self.find("same", offset=10 ** 8)["results"], [])

    def test_words_that_are_not_together(self):
        self.index(["harbour"] * 3 + ["budget"])
        answer = self.find("harbour zeppelin")
        self.assertEqual((answer["total"], answer["complete"]), (0, True))
        self.assertEqual(answer["words"], [{"word": "harbour", "documents": 3}, {"word": "zeppelin", "documents": 0}])

    def test_snippets(self):
        """They begin and end at words; a mark is around letters with all that belongs to them."""
        filler = "some other words that stand around it, "
        self.index([filler * 30 + "the harbour budget of 1969 " + filler * 30,
                    "قبل " * 200 + "مُحَمَّدٌ وصل " + "بعد " * 200, "我在北京大学学习。" * 40 + "天安门事件" + "人人生而自由。" * 40,
                    "हिन्दी भाषा", "an investi-\ngation", "la cafe\u0301", "ภาษาไทยง่าย" * 50])
        for query, marked, whole in (
                ("harbour", ["harbour"], r"words|that"), ('"harbour budget"', ["harbour budget"], "1969"),
                ("محمد", ["مُحَمَّدٌ"], "قبل"), ("天安门", ["天安门"], "事件"), ("हिंदी", ["हिन्दी"], "भाषा"),
                ("investigation", ["investi- gation"], "an"), ("cafe", ["cafe\u0301"], "la"), ("ไทย", None, "ง่าย")):
            with self.subTest(query):
                snippet = self.find(query, open="[", close="]")["results"][0]["snippet"]
                marks = re.findall(r"\[(.*?)\]", snippet)
                self.assertEqual(marks, marked or ["ไทย"] * len(marks))
                self.assertRegex(snippet, whole)
                text = re.sub("[][]", "", snippet)
                self.assertLess(len(text), 250)
                inner = text.strip("… ").replace("- ", "-\n")
                document = (self.sample / self.find(query)["results"][0]["title"]).read_text()
                self.assertIn(inner, document)
                at = document.index(inner)
                for edge in (at, at + len(inner)):
                    around = document[max(0, edge - 1):edge + 1]
                    if around.isascii():
                        self.assertFalse(len(around) == 2 and around.isalnum(), (edge, around, snippet))

    def test_the_index_is_described(self):
        before = time.time()
        self.index(["one", "two"])
        index = self.find("one")["index"]
        self.assertEqual((index["documents"], index["nLeftOut"], index["leftOut"]), (2, 0, []))
        self.assertLess(abs(index["madeAtMs"] / 1000 - before), 60)


class FullOverview(FakeOverview):
    """So many documents that a search in them takes its time; each has a word of each beginning."""

    def send(self):
        letters = "abcdefghijklmnopqrstuvwxyz"
        chance = random.Random(1)
        words = [a + "".join(chance.choices(letters, k=4)) for a in letters for _ in range(400)]
        parts = [json.dumps(" ".join(chance.choices(words, k=60)))[:-1] for _ in range(500)]
        documents = (b'{"id":%d,"title":"t","text":%s","url":null,"pageNumber":null}' %
                     ((1 << 32) + i + 1, (parts[i % 500] + f" {i} every").encode()) for i in range(self.number))
        self.stream(HEAD % self.number, *(b",".join(itertools.islice(documents, 1000)) +
                                          (b"," if at + 1000 < self.number else b"]}")
                                          for at in range(0, self.number, 1000)))

    how = send


@plain_only
class BoundTest(FindTest):
    """Q1, M7: a search ends in time, whatever it is, and nobody waits for one that was given up."""

    NUMBER = 120000
    BEGINNINGS = " ".join(a + "*" for a in "abcdefghijklmnopqrstuvwxyz") + " aa* ab* ac* ad* ae* af*"

    def setUp(self):
        super().setUp()
        handler = type("Handler", (FullOverview,), {"number": self.NUMBER})
        self.overview = f"http://127.0.0.1:{serve_http(self, handler)}"
        self.server = self.serve(PROCESS_DOCSET)
        body = f"server={self.overview}&documentSetId=1"
        stream = self.server.request("POST", "/generate", {
            "Authorization": basic("sample"), "Content-Type": "application/x-www-form-urlencoded"}, body)
        self.assertEqual(stream.last(300)["returncode"], 0)

    def path(self, query, **more):
        fields = {"server": self.overview, "documentSetId": "1", "q": query, **more}
        return "/search?" + urlencode(fields, quote_via=quote)

    def ask(self, query, token="sample", **more):
        return self.server.ask("GET", self.path(query, **more), {"Authorization": basic(token)})

    def test_every_search_ends_in_two_seconds(self):
        for query, least in {"every": self.NUMBER, "c*": 1, "c* d*": 1, self.BEGINNINGS: 0, "NOT c*": 0,
                             f"NOT ({self.BEGINNINGS})": 1, self.BEGINNINGS.replace(" ", " OR "): 1,
                             '"every every"': 0, "every -c*": 0}.items():
            with self.subTest(query[:40]):
                begin = time.monotonic()
                answer = self.find(query, bits=1)
                took = time.monotonic() - begin
                self.assertLess(took, 2 * max(1, busy()), query)
                self.assertGreaterEqual(answer["total"], least)
                self.assertEqual(len(bits_of(answer)), answer["total"])
                if answer["total"] > 0:
                    self.assertGreater(len(answer["results"]), 0)

    def test_m7_abandoned_searches_delay_nobody(self):
        """M7: forty that were sent and reset."""
        clients = []
        for _ in range(40):
            client = Client(self.server.address)
            client.send(f"GET {self.path(self.BEGINNINGS)} HTTP/1.1\r\nHost: x\r\nAuthorization: {basic('sample')}\r\n\r\n")
            clients.append(client)
        for client in clients:
            client.reset()
        begin = time.monotonic()
        self.assertEqual(self.ask("every", token="sample")[0].status, 200)
        self.assertLess(time.monotonic() - begin, 3)

    def test_one_search_of_a_token_at_a_time(self):
        """Whoever sends many delays themselves only."""
        clients = []
        for _ in range(5):
            client = Client(self.server.address)
            client.send(f"GET {self.path(self.BEGINNINGS)} HTTP/1.1\r\nHost: x\r\nAuthorization: {basic('sample')}\r\n\r\n")
            clients.append(client)
        begin = time.monotonic()
        head, _ = self.ask("every", token="another")
        self.assertEqual(head.status, 404)
        self.assertLess(time.monotonic() - begin, 2)
        self.assertEqual({client.read_head(60).status for client in clients}, {200})
