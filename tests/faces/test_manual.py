"""test_manual.py - what workqueue-program(7) says is what happens: each example of the page is run."""

import os
import re
import subprocess

from harness import BUILD, DEADLINE, ROOT, FaceTest, wait_for

PAGE = (ROOT / "workqueue" / "doc" / "workqueue-program.7.md").read_text()
COMMAND = BUILD / "bin" / "workqueue"


def blocks(begin):
    return [text for text in re.findall(r"^```\n(.*?)^```$", PAGE, re.M | re.S) if text.startswith(begin)]


class ManualTest(FaceTest):
    def test_what_is_taken(self):
        found = re.findall(r"^`([^\n]+)`\n:   Taken as ([0-9.]*[0-9])(?: with the message `([^`]*)`)?", PAGE, re.M)
        self.assertGreater(len(found), 7)
        for line, fraction, message in found:
            with self.subTest(line):
                server, job = self.serve(storage=self.storage()), self.told("set")
                stream = server.generate("set")
                text = line.replace("<TAB>", "\t")
                job.tell(f"printf '%s\\n' '{text}'")
                record = stream.until_fraction(float(fraction))
                self.assertEqual(record["message"], message or None)
                job.succeed()
                stream.read_all()
                job.wait_gone()
                os.unlink(self.folder / "started")
                self.assertNotIn("invalid program", server.log())

    def storage(self):
        path = self.folder / f"storage{len(list(self.folder.glob('storage*')))}"
        path.mkdir()
        return path

    def test_what_beginners_do(self):
        """Each in a server of its own, whose log is about nothing else."""
        os.environ["WQ_EXAMPLE_KEY"] = "for the server only"
        self.addCleanup(os.environ.pop, "WQ_EXAMPLE_KEY")
        found = re.findall(r"^`([^\n]+)`(?: \([^\n]*\))?\n:   (Log|Error): `([^\n]*)`$", PAGE, re.M)
        self.assertGreater(len(found), 25)
        self.assertEqual(len(found), len(re.findall("^:   (?:Log|Error): ", PAGE, re.M)))
        for i, (text, where, said) in enumerate(found):
            with self.subTest(text):
                program = self.script("", f"program{i}")
                if text.startswith("#!"):
                    program.write_text(text.replace("\\r", "\r") + "\necho x >\"$4\"\n", newline="")
                elif "#!" in text:
                    program.write_text(text + "\n")
                else:
                    program.write_text("#!/bin/sh\n" + text + "\n")
                server = self.serve(program, storage=self.storage(), workers=1)
                last = server.generate("set").last(3 * DEADLINE)
                if where == "Error":
                    self.assertIn(said, last["error"])
                else:
                    wait_for(lambda: said in server.log(), said, 5, server.log)
                server.terminate()

    def test_whole_programs(self):
        found = blocks("#!")
        self.assertGreater(len(found), 1)
        for i, text in enumerate(found):
            with self.subTest(text):
                program = self.script(text, f"program{i}")
                result = subprocess.run([COMMAND, "run", program], capture_output=True, text=True,
                                        timeout=3 * DEADLINE, cwd=self.folder)
                self.assertEqual(result.returncode, 0, result.stderr)

    def test_what_is_typed(self):
        found = blocks("$ ")
        self.assertEqual(len(found), 2)
        self.script(blocks("#!")[0])
        for text in found:
            with self.subTest(text):
                commands = "\n".join(line[2:] for line in text.splitlines())
                result = subprocess.run(["sh", "-c", commands], capture_output=True, text=True,
                                        timeout=3 * DEADLINE, cwd=self.folder,
                                        env={**os.environ, "PATH": f"{COMMAND.parent}:{os.environ['PATH']}"})
                self.assertEqual(result.returncode, 0, result.stderr)
                if "echo $?" in text:
                    self.assertEqual(result.stdout.splitlines()[-1], "0")
                    self.assertGreater((self.folder / "out").stat().st_size, 0)
