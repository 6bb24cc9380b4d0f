"""Three masters, two agents and a public node from bare images; then again, which changes nothing. `vm` as argument: three virtual machines."""

import json
import sys
import time

from cluster import EMULATED, Cluster, Failed, Show, web
from hosts import Fleet, wait

LOOKUP = """
import socket,struct,os
name,server='{name}','{server}'
q=struct.pack('!6H',7,0x100,1,0,0,0)+b''.join(bytes([len(p)])+p.encode() for p in name.split('.'))+b'\\0'+struct.pack('!2H',1,1)
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(2); s.sendto(q,(server,53)); a=s.recv(4096)
print(a[3]&15, struct.unpack('!H',a[6:8])[0])
"""
# Of tasks on an installed host, in either version of control groups.
LIMITS = "find /sys/fs/cgroup -path '*plenum-tasks.service/*' '(' -name memory.max -o -name memory.limit_in_bytes ')' -exec cat {} +"
FETCH = "import urllib.request; print(urllib.request.urlopen('http://{place}',timeout=5).status)"


def main():
    vm = sys.argv[1:] == ["vm"]
    show = Show("install" + (" (virtual machines)" if vm else ""))
    if vm:
        fleet = Fleet("install-vm", 3, kind="vm", memory=1024)
        cluster = Cluster(fleet, {host: ["master", "agent"] for host in fleet.hosts}, top=EMULATED)
    else:
        fleet = Fleet("install", 6)
        h1, h2, h3, h4, h5, h6 = fleet.hosts
        cluster = Cluster(fleet, {h1: ["master"], h2: ["master"], h3: ["master"], h4: ["agent"], h5: ["agent"], h6: ["public"]})
    show.say(f"{len(fleet.hosts)} bare hosts answer ssh")
    began = time.monotonic()
    print(cluster.apply(timeout=1500), flush=True)
    print(cluster.said, flush=True)
    took = time.monotonic() - began
    show.promise(f"apply ends with a healthy cluster{'' if vm else ' in under 180 s'}", vm or took < 180, f"{took:.1f} s")
    cluster.wait_healthy(60)
    show.promise("every master votes, every agent is active", True)

    cluster.plenum("package", "install", "hello")
    tasks = cluster.wait_app("/hello", 1, 120)
    show.promise("a package installed from the laptop is healthy", tasks, f"on {tasks[0]['host']}")
    memory = int(cluster.call(cluster.masters()[0], "GET", "/service/marathon/v2/apps/hello")[1]["app"]["mem"]) << 20
    held = next(host for host in fleet.hosts if host.address == tasks[0]["host"]).ssh(LIMITS).split()
    show.promise("its memory is limited by the control groups of the node", str(memory) in held, f"{memory} in {sorted(set(held))}")
    for host in fleet.hosts:
        code = wait("the name", 20, lambda host=host: host.python(LOOKUP.format(name="hello.marathon.mesos", server="127.88.0.53")).split())
        show.promise(f"{host}: its name is known", code[0] == "0" and int(code[1]) >= 1, " ".join(code))
    elsewhere = [host for host in fleet.hosts if host.address != tasks[0]["host"]]
    for host in elsewhere:
        place = "hello.marathon.l4lb.thisdcos.directory"
        status = wait("the virtual address", 20, lambda host=host: virtual(host, place))
        show.promise(f"{host}: its virtual address answers from another node", status == "200", status)
    for host in cluster.masters():
        status, _ = wait("the gateway", 20, lambda host=host: good(cluster.call(host, "GET", "/service/hello/")))
        show.promise(f"the gateway of {host} answers for it", status == 200, status)

    began = time.monotonic()
    again = last_json(cluster.plenum("install", "apply", "--config", cluster.file, "--yes", "-o", "json", timeout=600))
    changed = again.get("changed")
    show.promise("a second apply changes nothing", changed == 0, f"{changed} changes, {time.monotonic() - began:.1f} s")
    tasks_after = cluster.wait_app("/hello", 1, 30)
    show.promise("and the task runs on", [task["id"] for task in tasks_after] == [task["id"] for task in tasks])
    if not vm:
        cluster.deploy(web("/public", 1, "11.0.200.9:80", acceptedResourceRoles=["slave_public"]))
        host = cluster.tasks("/public")[0]["host"]
        show.promise("an app for public nodes runs on the public node", host == fleet.hosts[5].address, host)
    show.end()


def good(answer):
    return answer if answer[0] == 200 else None


def virtual(host, name):
    """Asks the address behind the name of a virtual address, by the node's own resolver."""
    number = host.python(LOOKUP.format(name=name, server="127.88.0.53")).split()
    if number[0] != "0" or number[1] == "0":
        raise Failed(f"{name}: {number}")
    address = host.python(
        LOOKUP.format(name=name, server="127.88.0.53").replace("print(a[3]&15, struct.unpack('!H',a[6:8])[0])", "print(socket.inet_ntoa(a[-4:]))")
    ).strip()
    return host.python(FETCH.format(place=f"{address}:80")).strip()


def last_json(text):
    """The document, or the last line that is one."""
    try:
        return json.loads(text)
    except ValueError:
        return json.loads([line for line in text.splitlines() if line.startswith("{")][-1])


if __name__ == "__main__":
    main()
