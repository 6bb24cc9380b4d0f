"""After `plenum uninstall` the hosts are what they were before."""

import time

from cluster import Cluster, Show, web
from hosts import Fleet
from look import differences, look


def main():
    show = Show("uninstall")
    fleet = Fleet("uninstall", 4)
    h1, h2, h3, h4 = fleet.hosts
    before = {host: look(host) for host in fleet.hosts}
    cluster = Cluster(fleet, {h1: ["master"], h2: ["master"], h3: ["master", "agent"], h4: ["agent"]})
    cluster.apply()
    cluster.wait_healthy()
    cluster.deploy(web("/web", 3))
    show.promise("the installation is there", all(differences(before[host], look(host)) for host in fleet.hosts))
    began = time.monotonic()
    cluster.plenum("uninstall", "--config", cluster.file, "--yes")
    show.say(f"uninstalled in {time.monotonic() - began:.1f} s")
    time.sleep(1)
    for host in fleet.hosts:
        left = differences(before[host], look(host))
        show.promise(f"{host} is as before: files, units, accounts, tables, control groups, mounts", not left, left[:10] or f"{len(before[host])} lines")
    cluster.plenum("uninstall", "--config", cluster.file, "--yes")
    show.promise("uninstalling again is no error", True)
    cluster.apply()
    cluster.token = None  # another cluster, with other keys
    cluster.wait_healthy()
    show.promise("and it can be installed again", True)
    show.end()


if __name__ == "__main__":
    main()
