"""test_protocol.py - what workqueue-http(7) shows is what happens: each example of the page is typed, in its order, at a
server of the page's own program, and answers as it says there, "..." being anything."""

import re
import subprocess

from shell import CommandTest

from harness import DEADLINE, ROOT

PAGE = (ROOT / "workqueue" / "doc" / "workqueue-http.7.md").read_text()


def blocks():
    """The indented ones, without their indent."""
    for text in re.findall(r"(?:^    [^\n]*\n)+", PAGE, re.M):
        yield re.sub(r"^    ", "", text, flags=re.M)


def examples():
    """(command, what it prints)"""
    for block in blocks():
        for text in re.findall(r"^\$ [^\n]*\n(?:(?!\$ )[^\n]*\n)*", block, re.M):
            command, _, printed = text[2:].partition("\n")
            yield command, printed


class ProtocolTest(CommandTest):
    def test_examples_of_the_page(self):
        program = next(text for text in blocks() if text.startswith("#!"))
        secret = self.folder / "secret"
        secret.write_text("secret\n")
        secret.chmod(0o600)
        server = self.serve("--program", self.script(program), "--operator-secret-file", secret)
        found = list(examples())
        self.assertGreater(len(found), 12)
        for command, printed in found:
            with self.subTest(command):
                result = subprocess.run(["sh", "-c", command], env=self.environment(BASE=server.base), text=True,
                                        stdout=subprocess.PIPE, timeout=2 * DEADLINE)
                self.assertEqual(result.returncode, 0)
                wanted = re.escape(printed.strip()).replace(re.escape("..."), ".*")
                self.assertRegex(re.sub(r"\n+", "\n", result.stdout.strip()), re.compile(f"^{wanted}$", re.S))
