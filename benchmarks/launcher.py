"""Starts a script in a process of its own and says how long it took: `python -I -S launcher.py FOLDER PYTHON SCRIPT`.

It is a small program because the peak memory that a process reports begins with the memory of its parent.
"""

import json
import os
import subprocess
import sys
import time

folder, *command = sys.argv[1:]
began = time.perf_counter()
process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE)
assert process.stdout is not None
output = process.stdout.read().decode()
_, status, used = os.wait4(process.pid, 0)
wall = time.perf_counter() - began
scale = 1 if sys.platform == "darwin" else 1024
if status:
    sys.exit(f"the script ended with status {status}")
if output.split()[-1:] != ["42"]:
    sys.exit(f"WrongOutcome: the script said {output!r}, not 42")
cpu = used.ru_utime + used.ru_stime
size = sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names)
measured = {"wall": wall, "cpu": cpu, "memory": used.ru_maxrss * scale, "grown": 0, "disk": size, "extra": {}}
print("MEASURED " + json.dumps(measured))
