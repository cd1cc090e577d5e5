"""test_search_page.py - the search page of the example plugin, in headless Chromium."""

import json
import os
import threading
from pathlib import Path

from harness import basic, plain_only, serve_http
from node import browse, other_origin
from test_plugin import HEAD, PROCESS_DOCSET, FakeOverview
from test_search import FindTest, bits_of

PICTURES = os.environ.get("WQ_PICTURES")  # a folder: screenshots of each state go there

HARBOUR = ["the harbour budget of 1969 " * 3 + f"part {i}" for i in range(45)]
ARABIC = ["قرر المجلس تأجيل بناء الرصيف الجديد حتى تُعرف ميزانية الميناء للسنة القادمة",
          "قرأنا في الصحيفة أن المِيزانِيّة لا تشمل ضوء مدخل الميناء", "Translator's notes: the clerk writes ميزانية الميناء for the "
          "accounts of the port, as the English text of the same year calls them"]


class DriveTest(FindTest):
    def drive(self, *steps, within=None, **parameters):
        """Does the steps; what was seen, what Overview was told, and what was asked of the server."""
        fields = {"server": self.server.base, "documentSetId": "1", "apiToken": "sample", "origin": (within or "http://x").rstrip("/"),
                  **parameters}
        show = f"{self.server.base}/show?" + "&".join(f"{name}={value}" for name, value in fields.items())
        browser = browse(self, "search.mjs", show=show, steps=[list(step) for step in steps], **({"within": within} if within else {}))
        end, _ = browser.end()
        self.assertEqual(end, {"end": "done", "errors": end["errors"]})
        self.errors = end["errors"]
        return tuple([line[key] for line in browser.seen if key in line] for key in ("seen", "told", "request"))

    def picture(self, name):
        return [("picture", str(Path(PICTURES) / f"{name}.png"))] if PICTURES else []

@plain_only
class PageTest(DriveTest):
    def test_from_typing_to_a_document(self):
        self.index(HARBOUR + ARABIC)
        within = other_origin(self)
        seen, told, asked = self.drive(
            ("until", "Type a word"), ("look",), *self.picture("1-empty"), ("type", "harbour budget"), ("until", "45 documents"), ("look",),
            *self.picture("2-results"), ("click", "#next"), ("until", "21–40"), ("click", "#next"), ("until", "41–45"), ("look",),
            ("click", ".results a"), ("heard", ".txt"), ("press", "/"), ("fill", ""), ("until", "Type a word"), ("heard", "[{}]"), within=within)
        self.assertEqual(self.errors, [])
        empty, results, last = seen
        self.assertEqual(empty["count"], "48 documents")
        self.assertRegex(empty["made"], "Index made just now")
        self.assertEqual((results["count"], len(results["results"])), ("45 documents", 20))
        self.assertEqual(results["results"][0]["marks"][:2], ["harbour", "budget"])
        self.assertEqual(len(last["results"]), 5)
        self.assertLess(len(asked), 6, "not one for each key")
        self.assertEqual(asked[-1], "harbour budget")
        params = [message["args"][0] for message in told if message["call"] == "setDocumentListParams"]
        self.assertEqual(bits_of(params[-3]), set(range(1, 46)), "exactly what was found")
        self.assertIn("harbour budget", params[-3]["title"])
        self.assertIn("%s", params[-3]["title"])
        self.assertEqual(len(bits_of(params[-2])), 1, "the document that was chosen")
        self.assertEqual(params[-1], {})

    def test_the_address(self):
        """Reload and back show what was there; the token is where Overview has put it, and nowhere else."""
        self.index(HARBOUR + ["a zebra"])
        seen, _, _ = self.drive(
            ("until", "Type a word"), ("fill", "zebra"), ("press", "Enter"), ("until", "1 document"), ("fill", "harbour"), ("press", "Enter"),
            ("until", "1–20"), ("click", "#next"), ("until", "21–40"), ("reload",), ("until", "21–40"), ("look",), ("back",),
            ("until", "1–20"), ("look",), ("back",), ("until", "1 document\n"), ("look",))
        self.assertEqual([s["q"] for s in seen], ["harbour", "harbour", "zebra"])
        for look in seen:
            self.assertNotIn("sample", look["address"].partition("#")[2])
            self.assertNotIn("q=", look["address"].partition("#")[0])

    def test_right_to_left(self):
        self.index(HARBOUR + ARABIC)
        seen, _, _ = self.drive(("until", "Type a word"), ("fill", "ميزانية الميناء"), ("until", "3 documents"), ("look",),
                                *self.picture("3-rtl"), ("dark",), *self.picture("4-rtl-dark"))
        by_lang = {(result["lang"], result["dir"]) for result in seen[0]["results"]}
        self.assertEqual(by_lang, {("ar", "rtl"), ("", "ltr")})
        self.assertIn("المِيزانِيّة", [mark for result in seen[0]["results"] for mark in result["marks"]])

    def test_honest_when_nothing_is_found(self):
        self.index(HARBOUR)
        seen, told, _ = self.drive(
            ("until", "Type a word"), ("fill", "harbour zeppelin"), ("until", "No document has both words"), ("look",), *self.picture("5-none"),
            ("click", "#body a"), ("until", "45 documents"), ("look",), ("fill", "zeppelin"), ("until", "No document has it"), ("fill", "harbour~"),
            ("until", "Similar"), ("look",), *self.picture("6-problem"), ("fill", "harbour AND"), ("until", "After AND"))
        self.assertIn("“harbour” alone is in 45, “zeppelin” is in none.", seen[0]["body"])
        self.assertIn("all 45 documents", seen[0]["body"])
        self.assertEqual(seen[1]["q"], "harbour")

    def test_keys(self):
        self.index(HARBOUR)
        seen, _, _ = self.drive(("until", "Type a word"), ("press", "/"), ("type", "harbour"), ("until", "1–20"), ("press", "ArrowDown"),
                                ("press", "ArrowDown"), ("look",), ("press", "Escape"), ("look",), ("type", "/"), ("look",))
        self.assertEqual([s["focus"] for s in seen], ["LI", "q", "q"])
        self.assertTrue(seen[2]["q"].endswith("/"), "in the box it is a letter")


class ChangingOverview(FakeOverview):
    """Has as many documents as the test says, and one that is too large."""

    def how(self):
        items = [b'{"id":%d,"title":"report.pdf","text":"harbour words","url":null,"pageNumber":%d}' % (i, i) for i in range(1, self.state["n"] + 1)]
        if "stream=true" not in self.path:
            return self.answer(200, HEAD % self.state["n"] + items[0] + b"]}")
        if self.state["broken"]:
            items.insert(1, b'{"id":99,"title":"big.pdf","text":nonsense}')
        if self.state["fail"]:
            return self.answer(500, b"")
        self.state["gate"].wait(60)
        return self.stream(HEAD % len(items), b",".join(items), b"]}")


@plain_only
class FreshTest(DriveTest):
    """Q6, Q11, Q12: how old the index is, making it again, pages, what is not in it."""

    def setUp(self):
        super().setUp()
        self.state = {"n": 3, "broken": True, "fail": False, "gate": threading.Event()}
        handler = type("Handler", (ChangingOverview,), {"state": self.state})
        self.overview = f"http://127.0.0.1:{serve_http(self, handler)}"
        self.server = self.serve(PROCESS_DOCSET)

    def test_the_index_is_made_and_made_again(self):
        state = self.state
        parameters = {"server": self.overview}
        browser = browse(self, "search.mjs", show=f"{self.server.base}/show?server={self.overview}&documentSetId=1&apiToken=sample&origin=http://x",
                         steps=[["until", "Making the index"], ["until", "asking for the documents"], *map(list, self.picture("7-indexing")), ["look"],
                                ["until", "Type a word"], ["look"]])
        line = browser.until(lambda l: "seen" in l, "the making")
        self.assertEqual(line["seen"]["chip"], "Running")
        state["gate"].set()
        line = browser.until(lambda l: "seen" in l, "the index")
        self.assertEqual(line["seen"]["count"], "3 documents")
        self.assertIn("big.pdf (it is malformed)", line["seen"]["leftOut"])
        browser.end()
        state.update(n=5, broken=False)
        seen, _, _ = self.drive(
            ("until", "1 document was added"), ("look",), ("fill", "harbour"), ("until", "page 3"),
            ("look",), *self.picture("8-old"), ("click", "#rebuild"), ("until", "page 5"), ("gone", "was added"), ("look",), **parameters)
        self.assertEqual([result["page"] for result in seen[1]["results"]], ["page 1", "page 2", "page 3"])
        self.assertEqual(len(seen[2]["results"]), 5)
        self.assertEqual(seen[2]["leftOut"], "")
        state.update(n=4, fail=True)
        seen, _, _ = self.drive(
            ("until", "1 document was removed"), ("fill", "harbour"), ("until", "page 5"), ("click", "#rebuild"), ("until", "The old one serves on"),
            ("look",), *self.picture("9-again-failed"), **parameters)
        self.assertEqual(len(seen[0]["results"]), 5)

    def test_the_first_index_fails(self):
        self.state.update(fail=True)
        seen, _, _ = self.drive(("until", "answered with status 500"), ("look",), *self.picture("10-failed"), server=self.overview)
        self.assertEqual(seen[0]["chip"], "Failed")
        head, body = self.server.ask("GET", f"/index?server={self.overview}&documentSetId=1", {"Authorization": basic("sample")})
        self.assert_problem((head, body), 404)
        self.state.update(fail=False)
        self.state["gate"].set()
        self.drive(("until", "Type a word"), server=self.overview)

    def test_index_tells_numbers_only(self):
        """M8: of what the server inside says, nothing comes out."""
        self.state["gate"].set()
        self.drive(("until", "Type a word"), server=self.overview)
        path = f"/index?server={self.overview}&documentSetId=1"
        _, body = self.server.ask("GET", path, {"Authorization": basic("sample")})
        answer = json.loads(body)
        self.assertEqual(answer["overview"], {"documents": 3})
        self.assertEqual(sorted(answer["index"]), ["documents", "leftOut", "madeAtMs", "nLeftOut"])
        self.assert_problem(self.server.ask("GET", path, {"Authorization": basic("other")}), 404)
        self.assert_problem(self.server.ask("GET", path), 401)
