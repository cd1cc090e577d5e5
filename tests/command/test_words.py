"""test_words.py - the man pages say what the tables say; completion knows every command and option."""

import subprocess

from shell import WORKQUEUE, CommandTest

from harness import ROOT

DOC = ROOT / "workqueue" / "doc"


class ManualTest(CommandTest):
    def test_every_option_is_in_its_page(self):
        overview = (DOC / "workqueue.1.md").read_text()
        for name in self.command("--list-words").stdout.split():
            with self.subTest(name):
                self.assertIn(f"**{name}**", overview)
                words = self.command("--list-words", name).stdout.split()
                page = (DOC / f"workqueue-{name}.1.md").read_text() if words else ""
                for word in words:
                    self.assertIn(f"**{word.rstrip('=')}**", page)

    def test_completion(self):
        script = (f'PATH="{WORKQUEUE.parent}:$PATH"; . "{ROOT}/workqueue/command/completion.bash"; '
                  'COMP_WORDS=(workqueue "$@"); COMP_CWORD=$#; _workqueue; printf "%s\\n" "${COMPREPLY[@]}"')

        def complete(*words):
            return subprocess.run(["bash", "-c", script, "bash", *words], capture_output=True,
                                  text=True, env=self.environment()).stdout.split()

        self.assertEqual(complete("se"), ["serve"])
        self.assertEqual(complete("serve", "--prog"), ["--program"])
        self.assertEqual(complete("serve", "--log-level", "w"), ["warning"])
        self.assertIn("--output", complete("run", "--"))
