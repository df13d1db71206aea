"""Many clients that wait for news of one key or service, each on a connection of its own, in one process.

usage: python3 parked.py PATH COUNT

PATH is asked with the index that it has now. Prints `parked COUNT` when all have asked, `woken COUNT` when each has had
an answer with a newer index and the value that all others had, and ends."""

import http.client
import resource
import selectors
import socket
import sys

path, count = sys.argv[1], int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

first = http.client.HTTPConnection("127.0.0.1", 8500)
first.request("GET", path)
answer = first.getresponse()
answer.read()
index = int(answer.headers["X-Consul-Index"])

waiting = selectors.DefaultSelector()
question = f"GET {path}{'&' if '?' in path else '?'}index={index}&wait=5m HTTP/1.1\r\nHost: x\r\n\r\n".encode()
for _ in range(count):
    client = socket.create_connection(("127.0.0.1", 8500))
    client.sendall(question)
    waiting.register(client, selectors.EVENT_READ, bytearray())
print("parked", count, flush=True)

bodies, woken = set(), 0
while woken < count:
    for key, _ in waiting.select():
        key.data.extend(key.fileobj.recv(65536))
        head, _, body = bytes(key.data).partition(b"\r\n\r\n")
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if not key.data or len(body) < int(lines.get(b"content-length", 1 << 30)):
            if not key.data:
                raise SystemExit("a connection was closed")
            continue
        if not head.startswith(b"HTTP/1.1 200") or int(lines[b"x-consul-index"]) <= index:
            raise SystemExit(f"no news: {head!r}")
        bodies.add(body)
        woken += 1
        waiting.unregister(key.fileobj)
if len(bodies) != 1:
    raise SystemExit(f"{len(bodies)} different answers")
print("woken", woken, flush=True)
