"""One master becomes three, five, three and one again, while tasks run and writes go on."""

import time

from cluster import Cluster, Show, Writer, web
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


def main():
    show = Show("grow")
    fleet = Fleet("grow", 7)
    h1, h2, h3, h4, h5, h6, h7 = fleet.hosts
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
    remove(h2, h5)
    check(1)
    writer.stop()
    writer.check(show)
    show.end()


if __name__ == "__main__":
    main()
