"""Runs a module as on a machine of its own: `machine.py DIRECTORY MODULE [ARGUMENT...]`.

The machine is called like the directory, which is all that programs on it find by themselves.
"""

import os
import socket
import sys
from pathlib import Path

directory, *arguments = sys.argv[1:]
os.chdir(directory)
try:
    os.unshare(os.CLONE_NEWUTS)
    socket.sethostname(Path(directory).name)
except PermissionError as error:
    # the others then look whether its processes run, instead of listening for it
    sys.stderr.write(f"the machine keeps its name: {error}\n")
os.execv(sys.executable, [sys.executable, "-m", *arguments])
