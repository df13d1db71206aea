"""Asks as consul-template asks, and follows its index rules (docs/consul.md): a view for a key, one for a service.

usage: python3 consul_template.py RULES KEY SERVICE
RULES is `head` for those of today's consul-template, `0.7.0` for those of the article's.

Prints one line of JSON for each thing that a template would see, and for each thing that must not happen:
  {"view": "key"|"service", "value": ..., "index": N}    what is rendered from now on
  {"view": ..., "lower": [OLD, NEW]}                     the index went back
  {"view": ..., "zero": true}                            no index, or 0
  {"view": ..., "same": N}                               the same index with other content
  {"view": ..., "error": STATUS}                         asked again after a pause
  {"view": ..., "requests": N, "idle": N}                when it is ended: how many in all, how many of them without news
"""

import base64
import json
import random
import signal
import sys
import threading
import time
import urllib.error
import urllib.request

API = "http://127.0.0.1:8500"
WAIT = "60000ms"
# consul-template's first pause after an error is 250 ms; it doubles, a minute at most.
RETRY = 0.25


def say(view, **what):
    # In one piece: `print` writes the end of the line by itself, and another view's line may come before it.
    sys.stdout.write(json.dumps({"view": view, **what}, sort_keys=True) + "\n")
    sys.stdout.flush()


class View(threading.Thread):
    def __init__(self, name, path, read, rules):
        super().__init__(daemon=True)
        self.view, self.path, self.read, self.rules = name, path, read, rules
        self.requests = self.idle = 0

    def fetch(self, index):
        self.requests += 1
        query = f"stale=&wait={WAIT}" + (f"&index={index}" if index else "")
        separator = "&" if "?" in self.path else "?"
        try:
            with urllib.request.urlopen(f"{API}{self.path}{separator}{query}", timeout=90) as answer:
                return int(answer.headers.get("X-Consul-Index", "0")), self.read(json.load(answer))
        except urllib.error.HTTPError as refused:
            if refused.code != 404:
                raise
            return int(refused.headers.get("X-Consul-Index", "0")), None

    def run(self):
        index, seen, has_data, pause = 0, None, False, RETRY
        while True:
            began = time.monotonic()
            try:
                new, value = self.fetch(index)
            except (OSError, ValueError) as error:
                say(self.view, error=getattr(error, "code", str(error)))
                time.sleep(pause)
                pause = min(2 * pause, 60)
                continue
            pause = RETRY
            if new == 0:
                say(self.view, zero=True)
            if new == index:
                # "no new data": what has come is not looked at.
                self.idle += 1
                if value != seen:
                    say(self.view, same=new)
                continue
            if new < index:
                say(self.view, lower=[index, new])
                if self.rules == "head":
                    index = 0
                    continue
            index = new
            if not has_data or value != seen:
                seen, has_data = value, True
                say(self.view, value=value, index=index)
            else:
                self.idle += 1
            if self.rules == "head":
                # At most one fetch in 100 ms, and up to 20 more so that not all come together.
                time.sleep(max(0, 0.1 + random.random() / 50 - (time.monotonic() - began)))


def value_of(rows):
    return base64.b64decode(rows[0]["Value"] or "").decode()


def instances_of(rows):
    entry = lambda row: f'{row["Service"]["ID"]} {row["Service"]["Address"] or row["Node"]["Address"]}:{row["Service"]["Port"]}'
    return [entry(row) for row in sorted(rows, key=lambda row: (row["Node"]["Node"], row["Service"]["ID"]))]


rules, key, service = sys.argv[1:]
views = [
    View("key", f"/v1/kv/{key}", value_of, rules),
    View("service", f"/v1/health/service/{service}?passing=1", instances_of, rules),
]
done = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: done.set())
for each in views:
    each.start()
done.wait()
for each in views:
    say(each.view, requests=each.requests, idle=each.idle)
