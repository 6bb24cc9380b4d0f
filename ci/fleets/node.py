"""A node's life, by its name in cluster.yaml: drained, called off, deactivated, reactivated, gone."""

import time

from cluster import Cluster, Show, web
from hosts import Fleet, wait


def main():
    show = Show("node")
    fleet = Fleet("node", 4)
    h1, h2, h3, h4 = fleet.hosts
    cluster = Cluster(fleet, {h1: ["master"], h2: ["agent"], h3: ["agent"], h4: ["agent"]}, store={"kind": "embedded"})
    cluster.apply()
    cluster.wait_healthy()
    listed = {node["node_name"]: node for node in cluster.json("node", "list")}
    show.promise("nodes have the names of cluster.yaml", {"h2", "h3", "h4"} <= set(listed), sorted(listed))
    cluster.deploy(web("/web", 6))

    def on(host):
        return {task["id"] for task in cluster.tasks("/web") if task["host"] == host.address}

    # A task that takes its time to end holds the drain up: named, and called off.
    slow = {"id": "/slow", "cmd": "trap 'sleep 40; exit 0' TERM; while true; do sleep 1; done", "cpus": 0.05, "mem": 16, "taskKillGracePeriodSeconds": 60}
    cluster.deploy({**slow, "instances": 1, "constraints": [["hostname", "LIKE", h2.address.replace(".", "\\.")]]})
    cluster.plenum("node", "drain", "h2", "--deadline", "90s")
    blocked = wait("what the drain waits for", 20, lambda: blockers(cluster, "h2"))
    show.promise("what the drain waits for is named", "slow" in str(blocked), blocked)
    cluster.plenum("node", "drain", "h2", "--cancel")
    wait("h2 in service", 20, lambda: state(cluster, "h2") == "active")
    cluster.wait_app("/web", 6, 60)
    show.promise("a drain that is called off leaves the node in service", state(cluster, "h2") == "active")

    began = time.monotonic()
    before = on(h3)
    cluster.plenum("node", "drain", "h3", "--wait", timeout=120)
    show.promise("a drained node runs nothing", not on(h3), f"{len(before)} tasks went in {time.monotonic() - began:.1f} s")
    cluster.wait_app("/web", 6, 60)
    refused = cluster.start("node", "drain", "h33")
    _, said = refused.communicate(timeout=30)
    show.promise("an unknown name is refused with the nearest", refused.returncode != 0 and "h3" in said, said.strip()[:200])
    cluster.plenum("node", "reactivate", "h3")
    show.promise("reactivated it is in service", wait("h3", 20, lambda: state(cluster, "h3") == "active"))

    cluster.plenum("node", "deactivate", "h4")
    held = on(h4)
    cluster.ask("PUT", "/service/marathon/v2/apps//web", {"instances": 10})
    cluster.wait_app("/web", 10, 60)
    show.promise("a deactivated node keeps its tasks and gets no new ones", on(h4) == held, len(held))
    cluster.plenum("node", "reactivate", "h4")
    h4.kill()
    cluster.plenum("node", "gone", "h4", "--yes")
    cluster.wait_app("/web", 10, 60)
    show.promise("a node that is gone is replaced by others", not on(h4))
    h4.power_on()
    h4.wait_ssh()
    time.sleep(10)
    show.promise("and one that was said to be gone is not let in again", state(cluster, "h4") != "active", state(cluster, "h4"))
    show.end()


def state(cluster, name):
    """A node's state in a word."""
    for node in cluster.json("node", "list"):
        if node.get("node_name") == name:
            drain = (node.get("drain_info") or {}).get("state", "").lower()
            return drain or ("deactivated" if node.get("deactivated") else "active" if node.get("active") else "inactive")
    return None


def blockers(cluster, name):
    """What a drain waits for."""
    slaves = cluster.ask("GET", "/mesos/slaves")["slaves"]
    return next((slave.get("drain_blockers") for slave in slaves if slave.get("node_name") == name), None)


if __name__ == "__main__":
    main()
