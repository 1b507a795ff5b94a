"""Chromium on a page that sends commands to a port. Copied into the machine.

    browsing.py HOST PORT FROM      HOST is what the page calls 127.0.0.1

The page comes from port FROM of HOST. Where that is PORT itself, as after DNS rebinding, who else is to get PORT has it
once `loaded` is printed, and the page waits for a line on the standard input. Prints a JSON object: what came of each
request, and, where PORT is RECORDED, which records all that it gets, what came there.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Event, Thread

OWN, RECORDED = 8000, 20203
GRANTED = "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Methods: *\r\nAccess-Control-Allow-Headers: *\r\n"
PAGE = Path(__file__).with_name("page.html").read_bytes()

recorded: list[str] = []
outcomes: Queue[dict[str, str]] = Queue()
loaded, go = Event(), Event()


class Recorder(StreamRequestHandler):
    """Records a request, HTTP or not, grants everything, and closes."""

    def handle(self) -> None:
        received = self.request.recv(1 << 16)
        if re.match(rb"[!-~]+ ", received):
            while b"\r\n\r\n" not in received:
                received += self.request.recv(1 << 16)
            length = re.search(rb"(?i)\r\ncontent-length: (\d+)", received)
            wanted = received.index(b"\r\n\r\n") + 4 + (int(length[1]) if length else 0)
            while len(received) < wanted:
                received += self.request.recv(1 << 16)
            body = PAGE if received.startswith(b"GET /page") else b"seen"
            head = f"HTTP/1.1 200 OK\r\n{GRANTED}Content-Type: text/html\r\nContent-Length: {len(body)}\r\n"
            self.request.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
            if body is PAGE:
                loaded.set()
                return
        recorded.append(received.decode("latin-1"))


class Own(BaseHTTPRequestHandler):
    """The page's own server: the page, when it may begin, and what it reports."""

    def do_GET(self) -> None:
        page = self.path.startswith("/page")
        self._answer(200 if page or go.is_set() else 404, PAGE if page else b"")
        if page:
            loaded.set()

    def do_POST(self) -> None:
        outcomes.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(200, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingTCPServer):
    """A server of many connections, at a port that was in use a moment ago."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 100


def main() -> None:
    host, port, source = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    own = ThreadingHTTPServer(("127.0.0.1", OWN), Own)
    Thread(target=own.serve_forever, daemon=True).start()
    recorder = Server(("127.0.0.1", port), Recorder) if port == RECORDED or source == port else None
    if recorder:
        Thread(target=recorder.serve_forever, args=[0.05], daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        command = ["chromium-headless-shell", f"--user-data-dir={home}", "--remote-debugging-port=0"]
        command += ["--allow-loopback-in-peer-connection"]
        command += [f"--host-resolver-rules=MAP {host} 127.0.0.1", f"http://{host}:{source}/page?target={host}:{port}"]
        browser = subprocess.Popen(command, env=os.environ | {"HOME": home}, stderr=subprocess.DEVNULL)
        try:
            assert loaded.wait(30), "Chromium did not load the page"
            if recorder and port != RECORDED:
                recorder.shutdown()
                recorder.server_close()
            print("loaded", flush=True)
            sys.stdin.readline()
            go.set()
            print(json.dumps({"outcomes": outcomes.get(timeout=40), "recorded": recorded}))
        finally:
            browser.terminate()
            browser.wait()


if __name__ == "__main__":
    main()
