"""An agent is cut off: its instances are healthy elsewhere within 30 s, and the wanted number runs after it is back. Then the leading master is cut
off: it stops leading before another starts."""

import json
import time

from cluster import Cluster, Show, web
from hosts import Fleet, wait


def main():
    show = Show("partition")
    fleet = Fleet("partition", 6)
    h1, h2, h3, h4, h5, h6 = fleet.hosts
    cluster = Cluster(fleet, {h1: ["master"], h2: ["master"], h3: ["master"], h4: ["agent"], h5: ["agent"], h6: ["agent"]})
    cluster.apply()
    cluster.wait_healthy()
    # As people write it: the check's delay is the default, 15 s.
    app = web("/web", 6)
    del app["healthChecks"][0]["delaySeconds"]
    tasks = cluster.deploy(app)
    seen = {task["id"] for task in tasks}
    victim = next(host for host in (h4, h5, h6) if any(task["host"] == host.address for task in tasks))
    there = {task["id"] for task in tasks if task["host"] == victim.address}
    show.say(f"six instances are healthy, {len(there)} of them on {victim}")
    fleet.cut(victim)
    began = time.monotonic()

    def moved():
        found = cluster.tasks("/web", timeout=5.0)
        seen.update(task["id"] for task in found)
        good = [
            task for task in found
            if task["host"] != victim.address and task["state"] == "TASK_RUNNING" and any(r["alive"] for r in task.get("healthCheckResults", []))
        ]  # fmt: skip
        return len(good) >= 6

    wait("six healthy instances elsewhere", 90, moved, 0.1)
    took = time.monotonic() - began
    show.promise("all instances are healthy elsewhere within 30 s of the cut", took <= 30, f"{took:.1f} s")
    fleet.heal()
    healed = time.monotonic()
    cluster.wait_healthy(90)
    cluster.wait_app("/web", 6, 60)
    show.say(f"exactly six again {time.monotonic() - healed:.1f} s after healing")
    time.sleep(5)
    running = []
    for host in (h4, h5, h6):
        running += host.ssh("for p in /proc/[0-9]*; do tr '\\0' '\\n' <$p/environ 2>/dev/null | sed -n 's/^MESOS_TASK_ID=//p'; done | sort -u", check=False).split()
    wanted = {task["id"] for task in cluster.tasks("/web")}
    show.promise("exactly the wanted tasks run on the hosts", sorted(running) == sorted(wanted), f"{len(running)} run, {len(wanted)} wanted")
    show.promise("none runs twice under one id", len(running) == len(set(running)))

    leader = cluster.leader("master")
    others = [host for host in cluster.masters() if host is not leader]
    fleet.cut(leader, *others)
    new = wait("another leader", 60, lambda: (found := cluster.leader("master", others)) and found is not leader and found, 0.2)
    time.sleep(3)
    stopped, started = moment(leader, "lost"), moment(new, "leads")
    show.promise(
        "the master that is cut off from etcd stops leading before another starts",
        stopped is not None and started is not None and stopped <= started,
        f"{leader} stopped at {stopped}, {new} started at {started}" + (f": {started - stopped:.3f} s later" if stopped and started else ""),
    )
    fleet.heal()
    cluster.wait_healthy(120)
    after = {task["id"] for task in cluster.wait_app("/web", 6, 30)}
    show.promise("no task was restarted by it", after == wanted)
    show.end()


def moment(host, word):
    """When the master on a host last said that it leads, or that it lost the lead: seconds since the epoch."""
    sentence = {"lost": "the leadership is lost", "leads": "leading; agents"}[word]
    found = None
    for line in host.ssh("journalctl -u plenum-master -o json --since -10min").splitlines():
        entry = json.loads(line)
        if isinstance(entry.get("MESSAGE"), str) and sentence in entry["MESSAGE"]:
            found = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
    return found


if __name__ == "__main__":
    main()
