"""test_broker.py - the connection to a broker: with RabbitMQ and ActiveMQ as they are, with Debian's
python3-stomp at the other end, and with brokers that behave badly."""

import os
import queue
import signal
import socket
import subprocess
import threading
import time
import unittest
import urllib.parse
import uuid

import services
import stomp
from harness import BUILD, DEADLINE, wait_for

TOOL = BUILD / "tests" / "broker-tool"
SECONDS = 2 * DEADLINE  # a broker that has just been started has more to do than to answer


def quote(text):
    data = text.encode() if isinstance(text, str) else text
    return "".join(f"%{b:02X}" for b in data) or "%"


def unquote(word):
    return b"" if word == "%" else urllib.parse.unquote_to_bytes(word)


class Message:
    def __init__(self, words):
        self.number, self.dropped, self.body = int(words[0]), int(words[1]), unquote(words[2])
        pairs = [unquote(w).decode() for w in words[3:]]
        self.headers = dict(reversed(list(zip(pairs[::2], pairs[1::2]))))


class Tool:
    """A broker-tool, and all that it has said."""

    def __init__(self, test, urls, ca=None, heartbeat_ms=0, frame=1 << 20, outgoing=1 << 24):
        self.process = subprocess.Popen(
            [TOOL, urls, ca or "-", str(heartbeat_ms), str(frame), str(outgoing)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        test.addCleanup(self.end)

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.split())

    def all(self, *begin):
        return [line for line in list(self.lines) if line[:len(begin)] == list(begin)]

    def wait(self, *begin, n=1, seconds=SECONDS):
        """The n-th line that begins so."""
        return wait_for(lambda: len(self.all(*begin)) >= n and self.all(*begin),
                        f"line {n} with {begin}", seconds, seen=lambda: self.lines[-20:])[n - 1]

    def call(self, *words):
        """The result of a command, and the sentence."""
        n = len(self.all("done"))
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        done = self.wait("done", n=n + 1)
        return int(done[2]), unquote(done[3]).decode()

    def do(self, *words):
        result, why = self.call(*words)
        assert result == 0, why

    def subscribe(self, name, destination, ack="individual", prefetch=0, **headers):
        pairs = [quote(w) for pair in headers.items() for w in pair]
        self.do("subscribe", name, quote(destination), ack, str(prefetch), *pairs)

    def send(self, tag, destination, body, headers=()):
        pairs = [quote(w) for pair in dict(headers).items() for w in pair]
        return self.call("send", tag, quote(destination), quote(body), *pairs)

    def messages(self, name):
        return [Message(line[2:]) for line in self.all("message", name)]

    def wait_messages(self, name, n=1):
        self.wait("message", name, n=n)
        return self.messages(name)

    def logged(self):
        return [unquote(line[2]).decode() for line in self.all("log")]

    def wait_logged(self, text, seconds=SECONDS):
        wait_for(lambda: any(text in line for line in self.logged()), f"a log line with {text!r}",
                 seconds, seen=lambda: self.logged()[-10:])

    def connections(self):
        return len(self.all("connected"))

    def barrier(self):
        """When it returns the broker has dealt with all that was sent before."""
        tag = "b" + uuid.uuid4().hex
        assert self.send(tag, "/queue/barrier", "x")[0] == 0
        self.wait("sent", tag, "0")

    def end(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                code = self.process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
            assert code in (0, 1), f"expected an end in good order; got {code}"
        self.reader.join()
        self.process.stdout.close()

    def kill(self):
        self.process.kill()
        self.process.wait()


class Foreign(stomp.ConnectionListener):
    """The other end, in python3-stomp."""

    def __init__(self, test, port):
        self.frames = queue.Queue()
        self.connection = stomp.StompConnection12([("127.0.0.1", port)], vhost="/",
                                                  auto_decode=False)
        self.connection.set_listener("", self)
        self.connection.connect("docsets", "docsets", wait=True)
        test.addCleanup(self.close)

    def on_message(self, frame):
        self.frames.put(frame)

    def subscribe(self, destination, ack="auto"):
        self.connection.subscribe(destination, id="1", ack=ack)

    def get(self):
        return self.frames.get(timeout=SECONDS)

    def close(self):
        if self.connection.is_connected():
            self.connection.disconnect()


class BrokerTest(unittest.TestCase):
    def queue_name(self):
        return "/queue/" + uuid.uuid4().hex


class RealBroker:
    """What holds with both brokers; `service` is one of them."""

    def setUp(self):
        self.broker = services.service(self.service)
        self.url = f"stomp://docsets:docsets@127.0.0.1:{self.broker.port}"
        self.queue = self.queue_name()

    def signal(self, number):
        os.kill(self.broker.pid(self.service), number)

    def tool(self, urls=None, **options):
        return Tool(self, urls or self.url, **options)

    def connected(self, **options):
        tool = self.tool(**options)
        tool.wait("connected")
        return tool

    def test_every_byte_both_ways(self):
        body = bytes(range(256)) * 3
        odd = "".join(map(chr, range(1, 256)))
        foreign, tool = Foreign(self, self.broker.port), self.connected()
        foreign.subscribe(self.queue)
        self.assertEqual(tool.send("a", self.queue, body, {"odd": odd, "o:d\n\\d": "x"})[0], 0)
        tool.wait("sent", "a", "0")
        frame = foreign.get()
        self.assertEqual(frame.body, body)
        self.assertEqual(frame.headers["odd"], odd)
        self.assertEqual(frame.headers["o:d\n\\d"], "x")
        back = self.queue + "back"
        tool.subscribe("s", back)
        foreign.connection.send(back, body, headers={"odd": odd, "receipt": "1"})
        message = tool.wait_messages("s")[0]
        self.assertEqual(message.body, body)
        self.assertEqual(message.headers["odd"], odd)
        tool.do("ack", str(message.number))

    def test_everything_sent_is_confirmed_and_arrives_in_order(self):
        tool = self.connected()
        tool.subscribe("s", self.queue, prefetch=1000)
        for i in range(200):
            self.assertEqual(tool.send(f"t{i}", self.queue, str(i))[0], 0)
        tool.send("-", self.queue, "best effort")
        bodies = [m.body.decode() for m in tool.wait_messages("s", 201)]
        self.assertEqual(bodies, [str(i) for i in range(200)] + ["best effort"])
        tool.wait("sent", n=200)
        self.assertEqual(len(tool.all("sent")), 200)
        for message in tool.messages("s"):
            tool.do("ack", str(message.number))

    def test_prefetch_1_holds_until_the_ack(self):
        tool = self.connected()
        tool.subscribe("s", self.queue, prefetch=1)
        for i in range(3):
            tool.send("-", self.queue, str(i))
        first = tool.wait_messages("s")[0]
        tool.barrier()
        self.assertEqual(len(tool.messages("s")), 1)
        tool.do("ack", str(first.number))
        second = tool.wait_messages("s", 2)[1]
        self.assertEqual(second.body, b"1")
        tool.barrier()
        self.assertEqual(len(tool.messages("s")), 2)

    def test_what_a_dead_consumer_held_goes_to_another(self):
        tool = self.connected()
        tool.subscribe("s", self.queue, prefetch=1)
        tool.send("a", self.queue, "job", {"persistent": "true"})
        tool.wait_messages("s")
        tool.kill()
        other = self.connected()
        other.subscribe("s", self.queue, prefetch=1)
        message = other.wait_messages("s")[0]
        self.assertEqual(message.headers["redelivered"], "true")
        other.do("ack", str(message.number))

    def test_last_message_is_taken_in_one_go(self):
        tool, foreign = self.connected(), Foreign(self, self.broker.port)
        tool.subscribe("s", self.queue, prefetch=1)
        for i in range(3):
            tool.send("-", self.queue, str(i))
        first = tool.wait_messages("s")[0]
        tool.do("take", "s", str(first.number))
        tool.wait("sent", "take", "0")
        foreign.subscribe(self.queue)
        self.assertEqual([foreign.get().body for _ in range(2)], [b"1", b"2"])
        tool.barrier()
        self.assertEqual(len(tool.messages("s")), 1)
        self.assertEqual(tool.connections(), 1)

    def test_a_dead_broker_comes_back(self):
        tool, foreign = self.connected(), Foreign(self, self.broker.port)
        tool.subscribe("s", self.queue + "in")
        tool.barrier()
        self.broker.kill()
        tool.wait("disconnected")
        for i in range(20):
            tool.send(f"t{i}", self.queue, str(i), {"persistent": "true"})
        tool.send("-", self.queue, "best effort: not sent")
        self.assertEqual(tool.all("sent", "t0"), [])
        self.broker.start()
        tool.wait("sent", "t19", "0")
        foreign = Foreign(self, self.broker.port)
        foreign.subscribe(self.queue)
        self.assertEqual([foreign.get().body for _ in range(20)], [b"%d" % i for i in range(20)])
        foreign.connection.send(self.queue + "in", "again")
        message = tool.wait_messages("s")[0]
        self.assertEqual(message.body, b"again")
        tool.do("ack", str(message.number))

    def test_a_silent_broker_is_left_and_found_again(self):
        tool = self.connected(heartbeat_ms=500)
        tool.subscribe("s", self.queue)
        tool.barrier()
        self.signal(signal.SIGSTOP)
        try:
            why = unquote(tool.wait("disconnected")[1]).decode()
            self.assertIn("nothing was heard", why)
        finally:
            self.signal(signal.SIGCONT)
        tool.wait("connected", n=2)
        tool.send("a", self.queue, "after")
        self.assertEqual(tool.wait_messages("s")[0].body, b"after")

    def test_heartbeats_keep_an_idle_connection(self):
        tool = self.connected(heartbeat_ms=2000)
        end = time.monotonic() + 9  # it would have been cut by then, at either end
        wait_for(lambda: time.monotonic() > end, "9 s")
        tool.barrier()
        self.assertEqual(tool.connections(), 1, tool.logged())

    def test_tls(self):
        port, ca = self.broker.port + 1, str(self.broker.folder / "tls" / "ca.pem")
        good = self.connected(urls=f"stomps://docsets:docsets@127.0.0.1:{port}", ca=ca)
        good.send("a", self.queue, b"x" * 500000)
        good.subscribe("s", self.queue)
        self.assertEqual(len(good.wait_messages("s")[0].body), 500000)
        unknown = self.tool(urls=f"stomps://docsets:docsets@127.0.0.1:{port}")
        unknown.wait_logged("its certificate is refused")
        other_name = self.tool(urls=f"stomps://docsets:docsets@localhost:{port}", ca=ca)
        other_name.wait_logged("its certificate is refused")
        self.assertEqual(unknown.connections() + other_name.connections(), 0)

    def test_wrong_password(self):
        tool = self.tool(urls=f"stomp://docsets:Wr0ngSecret@127.0.0.1:{self.broker.port}")
        tool.wait_logged("the broker refuses the connection")
        tool.end()
        self.assertNotIn("Wr0ngSecret", " ".join(tool.logged()))
        self.assertEqual(tool.connections(), 0)

    def test_the_second_broker_when_the_first_is_dead(self):
        dead = services.free_ports()
        tool = self.connected(urls=f"stomp://127.0.0.1:{dead},{self.url}")
        tool.wait_logged("Connection refused")
        tool.barrier()

    def test_too_long_a_message_is_cut_and_can_be_settled(self):
        tool, foreign = self.connected(frame=1000), Foreign(self, self.broker.port)
        tool.subscribe("s", self.queue, prefetch=1)
        foreign.connection.send(self.queue, "x" * 300000)
        foreign.connection.send(self.queue, "short")
        message = tool.wait_messages("s")[0]
        self.assertEqual((len(message.body), message.dropped), (1000, 299000))
        tool.do("ack", str(message.number))
        self.assertEqual(tool.wait_messages("s", 2)[1].body, b"short")

    def test_what_was_not_settled_at_unsubscribe_goes_to_another(self):
        tool, foreign = self.connected(), Foreign(self, self.broker.port)
        tool.subscribe("s", self.queue, prefetch=2)
        tool.subscribe("t", self.queue + "t", prefetch=2)
        tool.send("a", self.queue, "job")
        tool.wait_messages("s")
        tool.do("unsubscribe", "s")
        foreign.subscribe(self.queue)
        self.assertEqual(foreign.get().body, b"job")
        tool.send("b", self.queue + "t", "the others go on")
        tool.wait_messages("t")

    def test_an_ack_of_an_earlier_connection_is_nothing(self):
        tool = self.connected(heartbeat_ms=1500)
        tool.subscribe("s", self.queue, prefetch=1)
        tool.send("a", self.queue, "job")
        first = tool.wait_messages("s")[0]
        self.signal(signal.SIGSTOP)
        tool.wait("disconnected")
        self.signal(signal.SIGCONT)
        second = tool.wait_messages("s", 2)[1]
        tool.do("ack", str(first.number))
        tool.barrier()
        tool.do("ack", str(second.number))
        tool.barrier()
        self.assertEqual(tool.connections(), 2)

    def test_closing_is_bounded(self):
        tool = self.connected()
        self.signal(signal.SIGSTOP)
        try:
            tool.send("a", self.queue, "never confirmed")
            tool.process.stdin.close()
            tool.wait("closed")
            self.assertEqual(tool.all("sent", "a")[0][2], "-6")
        finally:
            self.signal(signal.SIGCONT)

    def test_a_frame_that_is_refused_does_not_stop_the_others(self):
        tool = self.connected()
        for i in range(3):
            tool.send(f"a{i}", self.queue, str(i))
        tool.send("bad", *self.refused)
        for i in range(3):
            tool.send(f"b{i}", self.queue, str(i))
        why = unquote(tool.wait("sent", "bad", "-1")[3]).decode()
        self.assertIn(self.refused_words, why)
        for name in "a0 a1 a2 b0 b1 b2".split():
            tool.wait("sent", name, "0")


class RabbitTest(RealBroker, BrokerTest):
    service = "rabbitmq"
    refused = "/queue/a/b", "x"
    refused_words = "ERROR: Invalid destination"

    def test_nack(self):
        tool = self.connected()
        tool.subscribe("s", self.queue, prefetch=1)
        tool.send("a", self.queue, "job")
        tool.do("nack", str(tool.wait_messages("s")[0].number), "1")
        again = tool.wait_messages("s", 2)[1]
        tool.do("nack", str(again.number), "0")
        tool.send("b", self.queue, "next")
        self.assertEqual(tool.wait_messages("s", 3)[2].body, b"next")

    def test_a_subscription_that_is_refused_is_told_and_the_others_go_on(self):
        other = self.connected()
        other.subscribe("s", self.queue, durable="false", exclusive="false")
        other.barrier()
        tool = self.connected()
        tool.subscribe("good", self.queue + "good")
        tool.subscribe("bad", self.queue)
        self.assertIn("ERROR", unquote(tool.wait("refused", "bad")[2]).decode())
        tool.send("a", self.queue + "good", "x")
        tool.wait_messages("good")
        tool.wait("sent", "a", "0")


class ActiveTest(RealBroker, BrokerTest):
    service = "activemq"
    refused = "/queue/a", "x", {"expires": "soon"}
    refused_words = "closed the connection"  # that is all it has to say to it


class FakeBroker:
    """A listener; accept() gives a connection on which CONNECT has been read."""

    def __init__(self, test):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(SECONDS)
        self.port = self.listener.getsockname()[1]
        test.addCleanup(self.listener.close)
        self.test = test

    def accept(self, answer=b"CONNECTED\nversion:1.2\n\n\0"):
        connection, _ = self.listener.accept()
        self.test.addCleanup(connection.close)
        connection.settimeout(SECONDS)
        self.read_frame(connection)
        connection.sendall(answer)
        return connection

    @staticmethod
    def read_frame(connection):
        data = b""
        while not data.endswith(b"\0"):
            more = connection.recv(1)
            assert more, f"expected a frame; got the end after {data!r}"
            data += more
        return data.lstrip(b"\n")


class BadBrokerTest(BrokerTest):
    def setUp(self):
        self.fake = FakeBroker(self)

    def tool(self, **options):
        return Tool(self, f"stomp://me:S3cret@127.0.0.1:{self.fake.port}", **options)

    def test_what_is_not_stomp_ends_the_connection(self):
        for answer, words in [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "not STOMP 1.2"),
                              (b"CONNECTED\nversion:1.1\n\n\0", "does not speak STOMP 1.2"),
                              (b"CONNECTED\nversion:1.2\nheart-beat:a,b\n\n\0", "malformed"),
                              (b"MESSAGE\n\n\0", "answers CONNECT by MESSAGE"),
                              (b"ERROR\nmessage:no\n\nof S3cret\0", "refuses the connection"),
                              (b"CONNECTED\nversion:1.2\n" + b"a:1\n" * 2000, "too many headers"),
                              (b"CONNECTED\nversion:1.2\na:" + b"1" * 70000, "too long")]:
            with self.subTest(answer[:40]):
                tool = self.tool()
                connection = self.fake.accept(answer)
                tool.wait_logged(words)
                self.assertNotIn("S3cret", " ".join(tool.logged()))
                tool.kill()
                connection.close()

    def test_a_receipt_of_a_stranger_confirms_nothing(self):
        tool = self.tool()
        connection = self.fake.accept()
        tool.wait("connected")
        tool.subscribe("s", "/queue/a")
        subscribe = FakeBroker.read_frame(connection)
        self.assertTrue(subscribe.startswith(b"SUBSCRIBE\n"), subscribe)
        number = subscribe.split(b"\nid:")[1].split(b"\n")[0]
        tool.send("a", "/queue/a", "x")
        receipt = FakeBroker.read_frame(connection).split(b"\nreceipt:")[1].split(b"\n")[0]
        connection.sendall(b"MESSAGE\nreceipt:" + receipt + b"\nreceipt-id:" + receipt +
                           b"\nsubscription:" + number + b"\nmessage-id:1\nack:1\n\nhello\0"
                           b"RECEIPT\nreceipt-id:99999\n\n\0RECEIPT\n\n\0")
        tool.wait_messages("s")
        self.assertEqual(tool.all("sent"), [])
        connection.close()
        again = self.fake.accept()
        self.assertTrue(FakeBroker.read_frame(again).startswith(b"SUBSCRIBE\n"))
        again.sendall(b"RECEIPT\nreceipt-id:" + number + b"\n\n\0")
        self.assertIn(b"\nreceipt:" + receipt, FakeBroker.read_frame(again))
        again.sendall(b"RECEIPT\nreceipt-id:" + receipt + b"\n\n\0")
        tool.wait("sent", "a", "0")
        tool.kill()

    def test_a_broker_that_is_away_costs_a_bounded_amount(self):
        port = services.free_ports()
        tool = Tool(self, f"stomp://127.0.0.1:{port}", outgoing=100000)
        results = [tool.send(f"t{i}", "/queue/a", b"x" * 10000)[0] for i in range(20)]
        self.assertEqual(results[0], 0)
        self.assertEqual(results[-1], -5)
        tool.do("stat")
        self.assertLessEqual(int(tool.all("stat")[0][4]), 100000)
        tool.end()
        self.assertEqual({line[2] for line in tool.all("sent")}, {"-6"})
        self.assertEqual(len(tool.all("sent")), results.count(0))

    def test_urls_that_are_none(self):
        for url in ["", "http://a", "stomp://", "stomp://a:0", "stomp://a:b", "stomp://u:S3cret%@a",
                    "stomp://u:S3cret%00@a", "stomp://[::1", "stomp://u:S3cret@a@b",
                    "stomp://a,stomp:", "stomp://a/%zz"]:
            with self.subTest(url):
                tool = Tool(self, url)
                why = unquote(tool.wait("done", "open", "-1")[3]).decode()
                self.assertNotIn("S3cret", why)


if __name__ == "__main__":
    unittest.main()
