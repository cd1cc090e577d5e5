#!/usr/bin/env python3
"""test_manual.py - the manual is whole: every public function is in a page of section 3, the examples in C compile,
every page is made without a warning, every page that another one names exists, and the HTML reference is made
from the headers without a warning.

    test_manual.py SOURCE BUILD
"""
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SOURCE, BUILD = map(Path, sys.argv[1:3])
DOC = SOURCE / "workqueue" / "doc"
PAGES = sorted(DOC.glob("*.[1-8].md"))
HEADERS = sorted((SOURCE / "include" / "workqueue").glob("*.h"))


def run(*command, **options):
    return subprocess.run([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, **options)


class ManualTest(unittest.TestCase):
    def test_every_public_function_is_in_a_page_of_section_3(self):
        text = "".join(page.read_text() for page in PAGES if page.name.endswith(".3.md"))
        for header in HEADERS:
            for name in re.findall(r"WQ_API [^;(]*?\b(wq_\w+)\(", header.read_text()):
                self.assertTrue(name in text, f"{name} of {header.name} is in no page of section 3")

    def test_examples_in_c_compile(self):
        flags = ["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror",
                 f"-I{SOURCE / 'include'}", "-fsyntax-only", "-xc", "-"]
        for page in PAGES:
            for example in re.findall(r"^```c\n(.*?)^```", page.read_text(), re.S | re.M):
                said = run("gcc", *flags, input=example)
                self.assertEqual((said.returncode, said.stdout), (0, ""), page.name)

    def test_options_of_a_command_and_of_its_page_are_the_same(self):
        for page, command in [("demo-plugin.1.md", [BUILD / "demo-plugin" / "demo-plugin"]),
                              *((f"workqueue-{name}.1.md", [BUILD / "bin" / "workqueue", name])
                                for name in ("serve", "packager"))]:
            told = re.findall(r"^  --([\w-]+)", run(*command, "--help").stdout, re.M)
            written = re.findall(r"^\*\*\\?--([\w-]+)\*\*.*\n:", (DOC / page).read_text(), re.M)
            self.assertEqual(sorted(told), sorted(written), page)

    def test_pages_are_made_without_a_warning(self):
        for page in PAGES:
            name = page.name.removesuffix(".md")
            made = run("pandoc", "-s", "--fail-if-warnings", "-f", "markdown-smart", "-t", "man", page)
            self.assertEqual(made.returncode, 0, f"{page.name}: {made.stdout}")
            self.assertRegex(made.stdout, r'\.TH "?' + re.escape(name[:-2].upper()), page.name)
            if shutil.which("groff"):
                said = run("groff", "-man", "-ww", "-z", "-K", "utf8", input=made.stdout)
                self.assertEqual(said.stdout, "", page.name)

    def test_pages_that_are_named_exist(self):
        ours = {page.name.removesuffix(".md") for page in PAGES}
        for page in [*PAGES, SOURCE / "README.md"]:
            for name, section in re.findall(r"\*?\*?((?:lib)?workqueue[\w-]*)\*?\*?\((\d)\)", page.read_text()):
                self.assertTrue(f"{name}.{section}" in ours, f"{page.name} names {name}({section})")

    def test_links_of_the_readme_lead_somewhere(self):
        for text in [SOURCE / "README.md", *DOC.glob("*.md")]:
            for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text.read_text()):
                self.assertTrue((text.parent / target).exists(), f"{text.name}: {target}")

    def test_the_html_reference_is_made_without_a_warning(self):
        if not shutil.which("doxygen"):
            self.skipTest("doxygen is not installed")
        with tempfile.TemporaryDirectory() as folder:
            settings = (DOC / "Doxyfile").read_text() + f"\nOUTPUT_DIRECTORY = {folder}\n"
            said = run("doxygen", "-", input=settings, cwd=SOURCE)
            self.assertEqual((said.returncode, said.stdout), (0, ""))
            self.assertTrue((Path(folder) / "workqueue_8h.html").exists())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
