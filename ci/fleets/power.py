"""The plug of every host is pulled at once under writes. Virtual machines: what was not synced is lost. All up again: healthy, nothing acknowledged
lost. Then they are off until their certificates have expired, and come back by themselves."""

import datetime
import subprocess
import sys
import time

from cluster import EMULATED, Cluster, Show, Writer, web
from hosts import Fleet

# An interpreter takes long to start on an emulated processor, and longer on a twentieth of one.
EMULATED_CPUS = 0.25
CHECKS = [{"protocol": "MESOS_HTTP", "path": "/", "portIndex": 0, "gracePeriodSeconds": 120, "intervalSeconds": 5, "timeoutSeconds": 20, "delaySeconds": 0}]


def main():
    show = Show("power")
    fleet = Fleet("power", 3, kind="vm", memory=1024)
    cluster = Cluster(fleet, {host: ["master", "agent"] for host in fleet.hosts}, top=EMULATED)
    cluster.apply(timeout=1500)
    cluster.wait_healthy(180)
    cluster.deploy(web("/web", 3, cpus=EMULATED_CPUS, healthChecks=CHECKS), 300)
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
    slower = emulation(fleet.hosts[0])
    # The mark is that of real processors; on emulated ones a sixth of the factor is granted.
    mark = 60 * max(1.0, slower / 6)
    show.promise(
        f"healthy within {mark:.0f} s of the last boot (60 s where nothing is emulated)",
        healthy - booted < mark,
        f"boot {booted - began:.1f} s, then {healthy - booted:.1f} s; processors {slower:.1f} times slower than this machine's",
    )
    cluster.wait_app("/web", 3, 240)
    show.say(f"and the app {time.monotonic() - booted:.1f} s after the last boot")
    writer.check(show)
    expired(show, cluster)
    show.end()


def emulation(host):
    """How much slower an interpreter's loop is there than here."""
    program = "import time,hashlib; t=time.perf_counter(); [hashlib.sha256(str(n).encode()).digest() for n in range(60000)]; print(time.perf_counter()-t)"
    here = min(float(subprocess.check_output([sys.executable, "-c", program])) for _ in range(3))
    return max(1.0, min(float(host.python(program)) for _ in range(3)) / here)


def expired(show, cluster):
    """All hosts are off until every certificate, which lives for a day, has expired."""
    hosts = cluster.fleet.hosts
    for host in hosts:
        host.kill()
        host.time = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)
    for host in hosts:
        host.power_on()
    for host in hosts:
        host.wait_ssh()
    began = time.monotonic()
    days = {host.name: int(host.ssh("date +%s")) // 86400 - int(time.time()) // 86400 for host in hosts}
    show.say(f"off until three days later; days that each clock is ahead: {days}")
    cluster.token = None
    cluster.wait_healthy(400)
    show.promise("every certificate had expired: healthy by itself", min(days.values()) >= 3, f"{time.monotonic() - began:.1f} s after the last boot")
    cluster.wait_app("/web", 3, 300)
    cluster.deploy(web("/after", 1, "11.0.200.8:80", cpus=EMULATED_CPUS, healthChecks=CHECKS), 300)
    show.promise("and the app runs, and a new one is taken", True)


if __name__ == "__main__":
    main()
