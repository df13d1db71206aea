"""Runs a program of the virtual environment as Python 3.8 would: consulate passes `encoding` to json.loads, which was
ignored since 3.1 and is an error since 3.9. The client itself stays as it is published.

usage: python with_old_json.py MODULE:FUNCTION ARGUMENT..."""

import importlib
import json
import sys

_loads = json.loads
json.loads = lambda text, *rest, encoding=None, **options: _loads(text, *rest, **options)

module, function = sys.argv[1].split(":")
sys.argv = [module] + sys.argv[2:]
sys.exit(getattr(importlib.import_module(module), function)())
