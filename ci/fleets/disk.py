"""An agent's disk, then the leading master's, is filled to the last byte: the cluster serves. Freed: the node recovers by itself, nothing is lost."""

import time

from cluster import Asker, Cluster, Show, Writer, web
from hosts import Fleet, wait

# What writing frees meanwhile, such as a file that is replaced, is taken too.
FILL = "cd /var/lib/plenum; for i in 1 2 3 4 5 6; do dd if=/dev/zero of=ballast$i bs=4k 2>/dev/null; sync; done; df --output=avail . | tail -1"
FREE = "rm -f /var/lib/plenum/ballast*"


def main():
    show = Show("disk")
    fleet = Fleet("disk", 5, disks={number: 700 for number in range(1, 6)})
    h1, h2, h3, h4, h5 = fleet.hosts
    roles = {h1: ["master"], h2: ["master"], h3: ["master"], h4: ["agent"], h5: ["agent"]}
    # The disks of the hosts are small on purpose.
    cluster = Cluster(fleet, roles, top={"limits": {"disk_free_mib": 300}})
    cluster.apply()
    cluster.wait_healthy()
    before = {task["id"] for task in cluster.deploy(web("/web", 4))}
    asker = Asker(h5, "11.0.200.1:80")
    writer = Writer(cluster)
    writer.start()

    left = h4.ssh(FILL).strip()
    show.say(f"{h4}: an agent's disk is full, {left} KiB left")
    time.sleep(10)
    status, _ = cluster.call(cluster.masters()[0], "PUT", "/service/marathon/v2/apps//web", {"instances": 6}, timeout=10)
    show.promise("a write is taken while an agent's disk is full", status == 200, status)
    wait("instances on the other agent", 60, lambda: len([t for t in cluster.tasks("/web") if t["state"] == "TASK_RUNNING"]) >= 5)
    h4.ssh(FREE)
    cluster.wait_healthy(60)
    after = {task["id"] for task in cluster.wait_app("/web", 6, 90)}
    show.promise("freed: the agent recovers by itself, and no task was lost", before <= after, f"{len(before & after)} of {len(before)}")

    leader = cluster.leader("master")
    left = leader.ssh(FILL).strip()
    filled = time.monotonic()
    show.say(f"{leader}: the leading master's disk is full, {left} KiB left")
    took = wait("a write while the leading master's disk is full", 60, lambda: writer.first_after(filled))
    show.say(f"first acknowledged write after {took:.2f} s")
    time.sleep(10)
    moment = time.monotonic()
    took = wait("another write", 60, lambda: writer.first_after(moment))
    show.promise("writes go on while the leading master's disk is full", took < 10, f"{took:.2f} s")
    leader.ssh(FREE)
    cluster.wait_healthy(120)
    show.promise("freed: every master votes again by itself", True)
    writer.stop()
    writer.check(show)
    asked, failed = asker.stop()
    show.promise("no request to the virtual address failed meanwhile", not failed and asked > 100, f"{asked} asked; {failed[:3]}")
    now = {task["id"] for task in cluster.wait_app("/web", 6, 60)}
    show.promise("the same tasks run", now == after)
    show.end()


if __name__ == "__main__":
    main()
