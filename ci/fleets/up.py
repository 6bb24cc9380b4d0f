"""Makes hosts, says how to reach them, and keeps them until Ctrl-C."""

import signal
import sys

from hosts import Fleet

fleet = Fleet("by-hand", int(sys.argv[1]) if len(sys.argv) > 1 else 3, kind="vm" if "vm" in sys.argv[2:] else "container")
for host in fleet.hosts:
    print(" ".join(host.ssh_command("").copy()).strip())
print("Ctrl-C ends them", flush=True)
signal.pause()
