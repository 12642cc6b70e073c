"""How a process that only serves looks for garbage."""

import subprocess
import sys

CODE = """
import gc
from outlast.server.garbage import collect_garbage_seldom

class Ring:
    pass

before = gc.get_threshold()[0]
collect_garbage_seldom()
assert gc.get_freeze_count() > 1000
assert gc.isenabled() and gc.get_threshold()[0] > before
for _ in range(30_000):
    ring = Ring()
    ring.ring = ring
del ring
print(sum(isinstance(it, Ring) for it in gc.get_objects()))
"""


def test_cycles_are_still_collected():
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 15_000
