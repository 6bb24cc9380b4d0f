"""Containers on a machine that has only cgroup v2, with project quotas on the agent's disk: a virtual machine, in which the tests of the runtime and the
drills of containers run as they do here. `ci/fleet vm NAME...` runs only those; `runtime` are the tests, of the program in `RUNTIME_TESTS`."""

import os
import subprocess
import sys

from cluster import PLENUM, Show
from hosts import Fleet, wait

PACKAGES = "apparmor busybox-static docker.io docker-registry openssl".split()
PARTS = ["runtime", "containers", "pods", "docker", "limits"]
# They have nothing to do with control groups, or measure what an emulated processor takes.
NOT_HERE = ["fetch", "numbers", "a_loud_task_costs_its_supervisor_little"]
HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# The state of every instance is here: a disk of its own, so that the limit of a task is the kernel's to hold.
STATE = "/var/lib/plenum"
DISK = f"""set -e
truncate -s 2G /var/quota.img
mkfs.ext4 -q -O project,quota -E quotatype=prjquota /var/quota.img
mkdir -p {STATE}
mount -o loop,prjquota /var/quota.img {STATE}
touch /etc/resolv.conf
"""
# A drill in a network that has nothing but a loopback interface, as ci/drill runs it.
DRILL = """cd /root/drills && ip netns add drill && trap 'ip netns delete drill' EXIT
inside() {{ nsenter --net=/run/netns/drill "$@"; }}
inside ip link set lo up
inside env PLENUM=/usr/local/bin/plenum DRILL_QUOTA=1 DRILL_PATIENCE=3 PYTHONDONTWRITEBYTECODE=1 timeout 500 python3 {name}.py drill 2>&1
ended=$?
inside plenum down --instance drill --purge >/dev/null
exit $ended"""
# What a host has of containers, besides what drills count themselves.
LEFT = f"""awk '{{print "mount", $2}}' /proc/mounts | grep -v /run/netns
find /sys/fs/cgroup -type d -path '*plenum*' -printf 'group %p\\n'
ip -o link | awk '{{print "link", $2}}' | sed 's/@.*//'
nft list tables | sed 's/^/table /'
ps -eo comm= | grep -E 'plenum|dockerd|containerd' | sed 's/^/process /'
ls {STATE} | grep -v '^instances[.]' | sed 's/^/state /'
ip netns list | sed 's/^/netns /'"""


def put(host, source, target):
    """Copies a file."""
    with open(source, "rb") as file:
        subprocess.run(host.ssh_command(f"cat >{target} && chmod 755 {target}"), stdin=file, check=True, timeout=120)


def runtime(show, host):
    """The tests of kernel/containers."""
    if not os.environ.get("RUNTIME_TESTS"):
        show.say("no tests of the runtime: RUNTIME_TESTS is not set")
        return
    put(host, os.environ["RUNTIME_TESTS"], "/root/tests")
    put(host, os.environ["PLENUM_SHIM"], "/root/shim")
    if "GLIBC" in host.ssh("/root/tests --list 2>&1", check=False):
        show.say("no tests of the runtime: they were built for a newer C library than this machine has")
        return
    skip = " ".join(f"--skip {name}" for name in NOT_HERE)
    follow(show, host, "runtime", f"PLENUM_SHIM=/root/shim timeout 300 /root/tests --test-threads 2 {skip} 2>&1")


def follow(show, host, name, command):
    """Runs a command, says what it says, and promises that it ends well and that nothing is left of it."""
    before = left(host)
    process = host.spawn(command)
    for line in process.stdout:
        print(f"  {line}" if line.strip() else line, end="", flush=True)
    show.promise(f"{name} on cgroup v2", process.wait(10) == 0)
    try:
        wait("nothing left", 20, lambda: left(host) <= before, 1.0)
        rest = set()
    except TimeoutError:
        rest = left(host) - before
    show.promise(f"nothing is left of {name}", not rest, sorted(rest)[:10] or "")
    show.say(f"{name} is over")


def left(host):
    """The lines."""
    return set(host.ssh(LEFT, check=False).splitlines())


def main():
    show = Show("vm")
    fleet = Fleet("vm", 1, kind="vm", memory=2048, packages=PACKAGES)
    host = fleet.hosts[0]
    host.ssh(DISK)
    put(host, PLENUM, "/usr/local/bin/plenum")
    drills = subprocess.run(["tar", "-C", os.path.join(HERE, "drills"), "-c", "."], capture_output=True, check=True).stdout
    subprocess.run(host.ssh_command("mkdir /root/drills && tar -C /root/drills -xm"), input=drills, check=True, timeout=60)
    kinds = set(host.ssh("awk '$3 ~ /^cgroup/ {print $3}' /proc/mounts").split())
    show.promise("the machine has cgroup v2 alone", kinds == {"cgroup2"}, f"Linux {host.ssh('uname -r').strip()}, {kinds}")
    show.promise("and pressure figures", "some avg10=" in host.ssh("cat /proc/pressure/memory"))
    for name in sys.argv[1:] or PARTS:
        if name == "runtime":
            runtime(show, host)
        else:
            follow(show, host, f"drill {name}", DRILL.format(name=name))
    show.end()


if __name__ == "__main__":
    main()
