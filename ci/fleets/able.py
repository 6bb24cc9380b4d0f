"""Says whether this machine lets its user make hosts: ends with 77 and a sentence where it does not, which counts as skipped, never as passed."""

import os
import subprocess
import sys

from hosts import groups
from image import image

SKIPPED = 77
REFUSED = ("not permitted", "permission denied", "read-only file system")


def attempt(what, *command):
    """Runs a command that needs rights. Refused for lack of them: skipped. Any other failure is a failure."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
    if not done.returncode:
        return
    said = (done.stderr.strip() or done.stdout.strip())[-1000:]
    if any(word in said.lower() for word in REFUSED):
        print(f"SKIPPED: no hosts can be made here, the system does not allow {what}: {said}", file=sys.stderr)
        sys.exit(SKIPPED)
    print(f"{what} failed: {said}", file=sys.stderr)
    sys.exit(1)


def main():
    space = f"plenum-able-{os.getpid()}"
    attempt("network namespaces", "ip", "netns", "add", space)
    try:
        attempt("bridges", "ip", "-n", space, "link", "add", "fleet", "type", "bridge")
        attempt("nftables", "nsenter", f"--net=/run/netns/{space}", "nft", "add", "table", "bridge", "fleet")
        overlay = 'mount -t tmpfs tmpfs "$0" && cd "$0" && mkdir a b c d && mount -t overlay overlay -o lowerdir=a,upperdir=b,workdir=c d'
        attempt("overlay mounts", "unshare", "--mount", "--propagation", "private", "sh", "-c", overlay, "/mnt")
        for at in groups():
            attempt(f"control groups in {at}", "sh", "-c", 'mkdir "$0" && rmdir "$0"', os.path.join(at, space))
        root = os.path.join(image("container"), "root")
        nspawn = ["systemd-nspawn", "--quiet", "--keep-unit", "--register=no", "--read-only", "--private-network", "--link-journal=no"]
        nspawn += [f"--machine={space}", f"--directory={root}", "--resolv-conf=off", "--timezone=off", "/bin/true"]
        os.environ["SYSTEMD_NSPAWN_LOCK"] = "0"
        attempt("systemd-nspawn", *nspawn)
    finally:
        subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)


if __name__ == "__main__":
    main()
