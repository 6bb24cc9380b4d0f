"""Faults of many kinds, one or more a host: preflight finds each with host, reason and remedy, and changes no host."""

import os

from cluster import Cluster, Show
from hosts import Fleet
from image import run
from look import differences, look

# A program that holds a port.
HOLD = "setsid python3 -c \"import socket,time; s=socket.socket(); s.setsockopt(1,2,1); s.bind(('0.0.0.0',{0})); s.listen(); time.sleep(9999)\" >/dev/null 2>&1 </dev/null &"


def main():
    show = Show("preflight")
    fleet = Fleet("preflight", 12, disks={7: 40})
    hosts = fleet.hosts
    (h1, h2, h3, h4, h5, h6, h7, h8, h9, h10, h11, h12) = hosts
    roles = {host: ["master"] if host in (h1, h2, h3) else ["agent"] for host in hosts}
    cluster = Cluster(
        fleet,
        roles,
        hosts={"h8": {"ssh": {"user": "careful"}}, "h9": {"ssh": {"user": "nobody-special"}}},
        ssh={"known_hosts": fleet.known_hosts, "sudo_password": "env:NOT_SET"},
    )
    faults = []  # what, host, words of the finding

    def fault(what, host, *words):
        faults.append((what, host, words))

    h1.ssh(HOLD.format(5050))
    fault("a port of the master is in use", h1, "5050")
    h2.ssh(HOLD.format(2380))
    fault("a port of etcd is in use", h2, "2380")
    h3.ssh("cp /etc/machine-id /tmp/id-of-3")
    h4.ssh(f"echo {h3.ssh('cat /etc/machine-id').strip()} >/etc/machine-id")
    fault("two hosts have one machine id", h4, "machine-id")
    h4.ssh("mkdir -p /var/lib/plenum/old/pki && echo broken >/var/lib/plenum/old/pki/ca.pem; printf '[Service]\\nExecStart=/bin/true\\n' >/etc/systemd/system/plenum-old-agent.service")
    fault("leftovers of an earlier installation", h4, "leftover")
    h5.ssh("mv /usr/sbin/nft /usr/sbin/nft.away")
    fault("nft is missing", h5, "nft")
    h6.ssh("nft 'add table inet strict; add chain inet strict in { type filter hook input priority 0; policy accept; }; add rule inet strict in tcp dport 5051 drop'")
    fault("a firewall drops an agent's port", h6, "5051")
    fault("the disk is too small", h7, "disk")
    fault("sudo needs a password that nobody gave", h8, "sudo")
    fault("the user may not use sudo", h9, "sudo")
    fleet.cut(h10)
    fault("the host does not answer", h10, "ssh")
    with open(fleet.known_hosts, encoding="utf-8") as file:
        lines = file.read().splitlines()
    other = run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", os.path.join(fleet.folder, "other")) or run("cat", os.path.join(fleet.folder, "other.pub"))
    lines = [f"{h11.address} {' '.join(other.split()[:2])}" if line.startswith(h11.address + " ") else line for line in lines]
    strange = os.path.join(fleet.folder, "known_hosts_strange")
    with open(strange, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    cluster.extra["ssh"]["known_hosts"] = strange
    cluster.write()
    fault("the host's key is another", h11, "key")
    h12.ssh("echo nameserver 10.77.0.250 >/etc/resolv.conf; sed -i '/127.0.0.1/d' /etc/hosts")
    fault("names cannot be resolved", h12, "resol")
    fleet.cut(h3, h12)
    fault("two hosts do not reach each other", h12, "h3")
    fault("the same, from the other side", h3, "h12")

    reached = [host for host in hosts if host not in (h10,)]
    before = {host: look(host) for host in reached}
    out = cluster.json("install", "preflight", "--config", cluster.file, check=False, timeout=300)
    findings = out["findings"]
    for what, host, words in faults:
        found = [
            finding for finding in findings
            if finding["host"] == host.name and all(word.lower() in str(finding).lower() for word in words) and finding.get("remedy")
        ]  # fmt: skip
        show.promise(f"{host}: {what}", found, f"{found[0]['fact']} -> {found[0]['remedy']}"[:220] if found else [f for f in findings if f["host"] == host.name])
    process = cluster.start("install", "apply", "--config", cluster.file, "--yes")
    process.communicate(timeout=300)
    show.promise("apply refuses", process.returncode != 0, process.returncode)
    for host in reached:
        left = differences(before[host], look(host))
        show.promise(f"{host} is unchanged", not left, left[:5] or "")
    show.end()


if __name__ == "__main__":
    main()
