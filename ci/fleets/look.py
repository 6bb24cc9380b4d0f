"""What a host has, as lines that can be compared: files, units, users, tables, control groups, mounts, links, rules, listening ports."""

LOOK = r"""
find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/log -o -path /var/tmp -o -path /var/cache -o -path /root/.ssh \) -prune -o -printf 'file %p %M %u:%g\n' 2>/dev/null
find /var/lib /var/spool -xdev -printf 'file %p %M %u:%g\n' 2>/dev/null
find /var/tmp /run/plenum /run/systemd/system /tmp -mindepth 1 -not -name 'systemd-private-*' -not -path '*/systemd-private-*' -not -path '/tmp/namespace-dev-*' -printf 'file %p\n' 2>/dev/null
cat /etc/passwd /etc/group | sed 's/^/account /'
systemctl list-unit-files --no-legend --no-pager | awk '{print "unit", $1, $2}'
systemctl list-units --all --no-legend --no-pager --plain 'plenum*' 'etcd*' | awk '{print "loaded", $1}'
nft list tables | sed 's/^/table /'
find /sys/fs/cgroup -name '*plenum*' -printf 'group %p\n' 2>/dev/null
awk '{print "mount", $2, $3}' /proc/mounts
ip -o link | awk '{print "link", $2}' | sed 's/@.*//'
ip -o addr | awk '{print "address", $2, $4}'
ip route show table all | sed 's/^/route /; s/ proto.*//'
ip rule | sed 's/^/rule /'
ss -Hltun | awk '{print "port", $1, $5}'
ps -eo comm= | sort -u | grep -E 'plenum|etcd' | sed 's/^/process /'
"""
# What changes by itself on a machine that nobody touches.
BY_ITSELF = ("systemd/timesync", "systemd/random-seed", "/var/lib/systemd", "/etc/.pwd.lock", "/var/lib/private", "/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/subuid", "/etc/subgid", "/root/.cache", "/home/ops/.cache", "sudo/lectured", "sudo_as_admin_successful", "/var/tmp/asker", "/var/lib/sudo", "session-", "user@", "user-")


def look(host):
    """The lines."""
    lines = host.ssh(f"({LOOK}) | sort -u", timeout=120).splitlines()
    return {line for line in lines if not any(part in line for part in BY_ITSELF)}


def differences(before, after):
    """What came and what went."""
    return [f"+ {line}" for line in sorted(after - before)] + [f"- {line}" for line in sorted(before - after)]
