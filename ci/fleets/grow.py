"""One master becomes three, five, three and one again, while tasks run and writes go on. On the way a master dies and another host takes its place,
and a host joins as an agent by user data, without SSH from the installer."""

import re
import subprocess
import time

from cluster import PLENUM, Cluster, Failed, Show, Writer, web
from hosts import Fleet


def pids(cluster):
    """The processes of tasks on every agent: host and process id by task."""
    found = {}
    for host in cluster.agents():
        lines = host.ssh(
            "for p in /proc/[0-9]*; do t=$(tr '\\0' '\\n' <$p/environ 2>/dev/null | sed -n 's/^MESOS_TASK_ID=//p'); [ -z \"$t\" ] || echo $t ${p#/proc/}; done"
        )
        for line in lines.splitlines():
            task, pid = line.split()
            found.setdefault(task, set()).add((host.name, pid))
    return found


def user_data(text):
    """The files that user data writes, by path, and what it runs: what of cloud-init's format `plenum install cloud-init` uses."""
    files, path, block = {}, None, False
    for line in text.splitlines():
        if found := re.match(r"- path: (\S+)$", line):
            path, block = found[1], False
            files[path] = ["0644", ""]
        elif found := re.match(r"  permissions: '(\d+)'$", line):
            files[path][0] = found[1]
        elif found := re.match(r"  content: (.+)$", line):
            block = found[1] == "|"
            if not block:
                files[path][1] = found[1]
        elif block and line.startswith("    "):
            files[path][1] += line[4:] + "\n"
        elif found := re.match(r"- \[(.+)\]$", line):
            return files, found[1]
    raise Failed(f"the user data runs nothing: {text[:200]}")


def join(cluster, host):
    """Does on a host whose image has the program what cloud-init would do there."""
    with open(PLENUM, "rb") as program:
        subprocess.run(
            host.ssh_command("cat >/usr/local/bin/plenum && chmod 755 /usr/local/bin/plenum"), stdin=program, check=True, timeout=120
        )
    files, command = user_data(cluster.plenum("install", "cloud-init", "--config", cluster.file, "--role", "agent", "--uses", "1"))
    for path, (mode, text) in files.items():
        host.ssh(f"mkdir -p $(dirname {path}) && (umask 077; cat >{path}) && chmod {mode} {path}", stdin=text)
    host.ssh(command, timeout=240)
    cluster.roles[host] = ["agent"]


def main():
    show = Show("grow")
    fleet = Fleet("grow", 9)
    h1, h2, h3, h4, h5, h6, h7, h8, h9 = fleet.hosts
    cluster = Cluster(fleet, {h1: ["master"], h6: ["agent"], h7: ["agent"]})
    cluster.apply()
    cluster.wait_healthy(masters=1)
    cluster.deploy(web("/web", 4))
    before = pids(cluster)
    show.say(f"one master with the embedded store; {len(before)} tasks run")
    writer = Writer(cluster, timeout=5.0)
    writer.start()

    def check(count):
        cluster.wait_healthy(120, masters=count)
        now = pids(cluster)
        show.promise(f"{count} masters: the same processes run", now == before, f"{len(now)} tasks")

    def add(*hosts):
        for host in hosts:
            began = time.monotonic()
            cluster.plenum("node", "add", host.address, "--name", host.name, "--role", "master", "--config", cluster.file, "--yes")
            cluster.roles[host] = ["master"]
            show.say(f"added {host} in {time.monotonic() - began:.1f} s")

    def remove(*hosts):
        for host in hosts:
            began = time.monotonic()
            writer.down.add(host)
            cluster.plenum("node", "remove", host.name, "--config", cluster.file, "--yes")
            del cluster.roles[host]
            show.say(f"removed {host} in {time.monotonic() - began:.1f} s")

    add(h2, h3)
    check(3)
    add(h4, h5)
    check(5)
    remove(h1, h4)
    check(3)

    began = time.monotonic()
    writer.down.add(h5)
    h5.kill()
    cluster.plenum("node", "replace", h5.name, h8.address, "--name", h8.name, "--dead", "--config", cluster.file, "--yes")
    del cluster.roles[h5]
    cluster.roles[h8] = ["master"]
    check(3)
    names = sorted(member["name"] for member in cluster.etcds(cluster.status())[0]["members"])
    show.promise("h8 votes in the place of h5, which died", names == ["h2", "h3", "h8"], f"{names}, {time.monotonic() - began:.1f} s")

    began = time.monotonic()
    join(cluster, h9)
    check(3)
    left = h9.ssh("ls /var/lib/plenum-join 2>/dev/null || true").strip()
    show.promise("h9 joined as an agent by user data, whose token is gone from it", left == "", left or f"{time.monotonic() - began:.1f} s")

    remove(h2, h8)
    check(1)
    writer.stop()
    writer.check(show)
    show.end()


if __name__ == "__main__":
    main()
