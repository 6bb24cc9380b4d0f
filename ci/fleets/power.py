"""The plug of every host is pulled at once under writes. Virtual machines: what was not synced is lost. All up again: healthy, nothing acknowledged
lost."""

import time

from cluster import Cluster, Show, Writer, web
from hosts import Fleet


def main():
    show = Show("power")
    fleet = Fleet("power", 3, kind="vm", memory=1024)
    cluster = Cluster(fleet, {host: ["master", "agent"] for host in fleet.hosts})
    cluster.apply(timeout=1500)
    cluster.wait_healthy(180)
    cluster.deploy(web("/web", 3), 180)
    show.say("installed on three virtual machines; three instances healthy")
    writer = Writer(cluster, timeout=10.0)
    writer.start()
    time.sleep(20)
    for host in fleet.hosts:
        host.kill()
    writer.stop()
    show.say(f"all plugs pulled; {len(writer.acknowledged)} writes were acknowledged until then")
    began = time.monotonic()
    for host in fleet.hosts:
        host.power_on()
    for host in fleet.hosts:
        host.wait_ssh()
    booted = time.monotonic()
    cluster.wait_healthy(240)
    healthy = time.monotonic()
    show.promise(
        "healthy within 60 s of the last boot",
        healthy - booted < 60,
        f"boot {booted - began:.1f} s, then {healthy - booted:.1f} s",
    )
    cluster.wait_app("/web", 3, 240)
    show.say(f"and the app {time.monotonic() - booted:.1f} s after the last boot")
    writer.check(show)
    show.end()


if __name__ == "__main__":
    main()
