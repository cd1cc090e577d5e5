"""attack.py - one kind of attack on a server, from an address of its own, until it is killed.

    python3 tests/faces/attack.py KIND ADDRESS PORT

Says "begun" when it is in full swing. What test_attacks.py does to others meanwhile is the test.
"""

import itertools
import resource
import select
import socket
import sys
import time

SOURCE = "127.0.0.2"
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
CROWD = 300
numbers = itertools.count()


def writable(socks):
    """Those that take more; select() knows only the first 1024 files."""
    poll = select.poll()
    by_fd = {sock.fileno(): sock for sock in socks}
    for fd in by_fd:
        poll.register(fd, select.POLLOUT)
    return [by_fd[fd] for fd, _ in poll.poll(10)]


class Attack:
    def __init__(self, address):
        self.address = address
        self.begin = time.monotonic()
        self.begun = False

    def connect(self):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((SOURCE, 0))
        sock.setblocking(False)
        try:
            sock.connect(self.address)
        except BlockingIOError:
            pass
        return sock

    def say(self):
        """After a moment: then whatever there is to build up has been built up."""
        if not self.begun and time.monotonic() > self.begin + 0.3:
            self.begun = True
            print("begun", flush=True)

    def send(self, sock, data):
        """How much was sent; -1: the connection has ended."""
        try:
            return sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return -1

    def crowd(self, data, n=CROWD, reads=False, drip=None):
        """n connections, always; each sends data(), then `drip` again and again, or `data` if that is None."""
        socks = {}
        while True:
            while len(socks) < n:
                sock = self.connect()
                socks[sock] = data()
            ready = writable(socks)
            for sock in ready:
                left = socks[sock]
                if not left:
                    left = data() if drip is None else drip
                    if not left:
                        continue
                sent = self.send(sock, left)
                socks[sock] = left[max(sent, 0):]
                gone = sent < 0
                while reads and not gone:
                    try:
                        got = sock.recv(65536)
                        gone = not got
                    except BlockingIOError:
                        break
                    except OSError:
                        gone = True
                if gone:
                    sock.close()
                    del socks[sock]
            if drip is not None:
                time.sleep(0.02)
            self.say()


def post(path, fields, headers=b""):
    body = fields.encode()
    return (b"POST %s HTTP/1.1\r\nHost: x\r\n%s%sContent-Length: %d\r\n\r\n%s"
            % (path.encode(), FORM, headers, len(body), body))


def fields(document_set=None, token=None):
    n = next(numbers)
    return f"server=http://a.example&documentSetId={document_set or n}&apiToken={token or n}"


def abandon(attack):
    """Jobs that are asked for, and reset at once."""
    while True:
        sock = attack.connect()
        select.select([], [sock], [], 1)
        attack.send(sock, post("/generate", fields()))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        attack.say()


def idle(attack):
    socks = [attack.connect() for _ in range(3 * CROWD)]
    while socks:
        time.sleep(0.05)
        attack.say()


GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
KINDS = {
    "sockets that do not read": lambda a: a.crowd(lambda: GET * 200),
    "pipelines": lambda a: a.crowd(lambda: b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 500, 4, True),
    "slow heads": lambda a: a.crowd(lambda: b"GET / HTTP/1.1\r\n", drip=b"X-A: b\r\n"),
    "slow bodies": lambda a: a.crowd(lambda: post("/generate", "x" * 60000)[:300], drip=b"x"),
    "slow chunks": lambda a: a.crowd(
        lambda: b"POST /generate HTTP/1.1\r\nHost: x\r\n" + FORM + b"Transfer-Encoding: chunked\r\n\r\n",
        drip=b"1\r\nx\r\n"),
    "half-open connections": idle,
    "connections without end": lambda a: a.crowd(lambda: b"\0", 50, True),
    "large heads": lambda a: a.crowd(
        lambda: b"GET /health HTTP/1.1\r\nHost: x\r\nCookie: " + b"c" * 32000 + b"\r\n\r\n", 20, True),
    "too large heads": lambda a: a.crowd(
        lambda: b"GET /health HTTP/1.1\r\nHost: x\r\nCookie: " + b"c" * 400000, 20, True),
    "large bodies": lambda a: a.crowd(lambda: post("/generate", fields("set") + "&x=" + "x" * 60000), 20,
                                      True),
    "too large bodies": lambda a: a.crowd(lambda: post("/generate", "x" * 8000000), 20, True),
    "streams that are not read": lambda a: a.crowd(lambda: post("/generate", fields("set", "t")), drip=b""),
    "lunkwill requests that nobody asks about": lambda a: a.crowd(
        lambda: post("/run", fields("set", "t"), b"X-Lunkwill: require\r\n"), 20, True),
    "made-up tokens": lambda a: a.crowd(lambda: post("/start_work", fields()), 20, True),
    "abandoned requests": abandon,
    "HTTP/2": lambda a: a.crowd(lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" * 1000, 20,
                                True),
    "refused requests": lambda a: a.crowd(lambda: b"GET / HTTP/1.1\r\n\r\n", 20, True),
}

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    KINDS[sys.argv[1]](Attack((sys.argv[2], int(sys.argv[3]))))
