"""The short one: three hosts that are masters and agents, containers that talk over the overlay, the leader's plug, uninstall."""

import time

from cluster import Asker, Cluster, Show, Writer, web
from hosts import Fleet, wait
from look import differences, look
from talk import both_ways, talk


def main():
    show = Show("short")
    fleet = Fleet("short", 3)
    before = {host: look(host) for host in fleet.hosts}
    cluster = Cluster(fleet, {host: ["master", "agent"] for host in fleet.hosts}, top={"networks": {"overlay_range6": "fd01::/48"}})
    began = time.monotonic()
    cluster.apply()
    cluster.wait_healthy()
    show.say(f"installed on three hosts in {time.monotonic() - began:.1f} s")
    cluster.apply()
    show.promise("a second apply ends well", True)
    # Two masters are left when one is pulled; the tasks that are looked at are not on it.
    leader = cluster.leader("master")
    talkers = talk(show, cluster, [host for host in fleet.hosts if host is not leader])
    away = [["hostname", "UNLIKE", leader.address.replace(".", "\\.")]]
    tasks = {task["id"] for task in cluster.deploy(web("/web", 2, constraints=away))}
    asker = Asker(next(host for host in fleet.hosts if host is not leader), "11.0.200.1:80")
    writer = Writer(cluster)
    writer.start()
    wait("a first write", 20, lambda: writer.acknowledged)
    writer.down.add(leader)
    plug = time.monotonic()
    leader.kill()
    took = wait("a write after the plug", 60, lambda: writer.first_after(plug), 0.01)
    show.promise("a write is acknowledged within 8 s of the plug of the leading master", took < 8, f"{took:.2f} s")
    leader.power_on()
    leader.wait_ssh()
    cluster.wait_healthy(120)
    writer.stop()
    writer.check(show)
    asked, failed = asker.stop()
    show.promise("no request to the virtual address failed", not failed and asked > 50, f"{asked} asked; {failed[:3]}")
    show.promise("the same tasks run", {task["id"] for task in cluster.wait_app("/web", 2, 60)} == tasks)
    both_ways(show, cluster, talkers, "under another leader")
    held = {etcd["name"]: etcd.get("users") for etcd in cluster.etcds(cluster.status())}
    show.promise("etcd holds each component to its own records", len(held) == 3 and all(held.values()), held)
    cluster.plenum("uninstall", "--config", cluster.file, "--yes")
    time.sleep(1)
    for host in fleet.hosts:
        left = differences(before[host], look(host))
        show.promise(f"{host} is as before", not left, left[:10] or "")
    show.end()


if __name__ == "__main__":
    main()
