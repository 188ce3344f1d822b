"""Jobs of tests/javascript/in_node.mjs."""

from __future__ import annotations

import json
import subprocess


def in_node(what: str, **job):
    done = subprocess.run(
        ["node", "tests/javascript/in_node.mjs"], input=json.dumps({"what": what, **job}), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
