"""The image that hosts start from: a small distribution with systemd, sshd and sudo, built once and kept in the cache."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys

CACHE = os.path.join(
    os.environ.get("PLENUM_CACHE")
    or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "plenum"),
    "fleet",
)
SUITE = os.environ.get("FLEET_SUITE", "bookworm")
PACKAGES = """systemd systemd-sysv dbus udev kmod openssh-server sudo iproute2 iputils-ping nftables procps python3
ca-certificates e2fsprogs""".split()
VM_PACKAGES = ["linux-image-cloud-amd64", "initramfs-tools", "zstd"]
# Timers and waits that cost time and show nothing.
MASKED = """systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount getty@tty1.service systemd-pstore.service""".split()
SERVICES = ["docker.service", "docker.socket", "containerd.service", "docker-registry.service"]
# PID 1 before systemd. In a container the version 1 control groups are mounted read only, and systemd looks at them once, as it starts; a
# virtual machine finds its name, keys and address on its second disk.
FIRST = """#!/bin/sh
case "${container:-}" in
systemd-nspawn)
  for at in /sys/fs/cgroup/*; do
    if mountpoint -q "$at"; then mount -o remount,rw,bind "$at"; fi
  done ;;
*) if [ -b /dev/vdb ] && [ ! -e /etc/fleet-seeded ]; then tar -x -f /dev/vdb -C / && : >/etc/fleet-seeded; fi ;;
esac
exec /lib/systemd/systemd "$@"
"""


def run(*command, **options):
    """Runs a command that must succeed; its error text is what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])}...: {done.stderr.strip()[-2000:] or done.stdout[-2000:]}")
    return done.stdout


def image(kind, more=()):
    """The folder of the image for `container` or `vm`, with `more` packages; builds it where it is missing."""
    recipe = repr((SUITE, PACKAGES, VM_PACKAGES if kind == "vm" else [], MASKED, FIRST, 3, *more))
    folder = os.path.join(CACHE, f"{kind}-{SUITE}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}")
    os.makedirs(CACHE, exist_ok=True)
    with open(os.path.join(CACHE, "lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(folder):
            print(f"building the {kind} image of {SUITE} (a minute or two)", file=sys.stderr, flush=True)
            build(kind, folder + ".new", more)
            os.rename(folder + ".new", folder)
    return folder


def sources():
    """The machine's own package sources where it runs the same suite: a mirror would be named there."""
    places = ["/etc/apt/sources.list"]
    extra = "/etc/apt/sources.list.d"
    places += [os.path.join(extra, name) for name in sorted(os.listdir(extra))] if os.path.isdir(extra) else []
    found = []
    for place in places:
        if place.endswith((".list", ".sources")) and os.path.isfile(place):
            with open(place, encoding="utf-8") as file:
                if SUITE in file.read().replace("-", " ").split():
                    found.append(place)
    return found


def build(kind, folder, more):
    """Builds the image in `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    root = os.path.join(folder, "root")
    os.makedirs(folder)
    names = PACKAGES + (VM_PACKAGES if kind == "vm" else []) + list(more)
    options = ["--mode=root", "--variant=minbase", "--include=" + ",".join(names)]
    # How this machine reaches its mirror.
    settings = [line for line in run("apt-config", "dump").splitlines() if line.startswith("Acquire::http")]
    with open(os.path.join(folder, "apt.conf"), "w", encoding="utf-8") as file:
        file.write("\n".join(settings) + "\n")
    options.append("--aptopt=" + os.path.join(folder, "apt.conf"))
    if kind == "vm":
        small = 'mkdir -p "$1/etc/initramfs-tools/conf.d"; printf "MODULES=list\\nCOMPRESS=zstd\\n" >"$1/etc/initramfs-tools/conf.d/fleet"'
        disk = 'mkdir -p "$1/usr/share/initramfs-tools/modules.d"; printf "virtio_pci\\nvirtio_blk\\next4\\n" >"$1/usr/share/initramfs-tools/modules.d/fleet"'
        options += ["--essential-hook=" + small, "--essential-hook=" + disk]
    run("mmdebstrap", *options, SUITE, root, *sources(), timeout=1200)
    furnish(root)
    if kind == "vm":
        boot = os.path.join(root, "boot")
        for name in os.listdir(boot):
            if name.startswith(("vmlinuz-", "initrd.img-")):
                os.rename(os.path.join(boot, name), os.path.join(folder, name.split("-")[0].split(".")[0]))
        disk = os.path.join(folder, "disk.raw")
        run("truncate", "-s", "6G", disk)
        run("mkfs.ext4", "-q", "-L", "root", "-d", root, disk, timeout=600)
        shutil.rmtree(root)


def furnish(root):
    """Accounts, sshd, network: what every host has in common."""

    def write(path, text, mode=0o644):
        path = os.path.join(root, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, mode)

    for name in ["etc/hostname", "etc/resolv.conf", "etc/apt/apt.conf.d/99mmdebstrap"]:
        if os.path.lexists(os.path.join(root, name)):
            os.unlink(os.path.join(root, name))
    for name in os.listdir(os.path.join(root, "etc/ssh")):
        if name.startswith("ssh_host_"):
            os.unlink(os.path.join(root, "etc/ssh", name))
    write("etc/machine-id", "")
    write("sbin/fleet-init", FIRST, 0o755)
    # Three accounts: sudo without a password, sudo with one, no sudo at all.
    for name, groups in [("ops", "sudo"), ("careful", "sudo"), ("nobody-special", "users")]:
        run("chroot", root, "useradd", "-m", "-s", "/bin/bash", "-G", groups, name)
    run("chroot", root, "chpasswd", input="careful:correct horse\nops:ops password\n")
    write("etc/sudoers.d/ops", "ops ALL=(ALL) NOPASSWD: ALL\n", 0o440)
    write("etc/ssh/sshd_config.d/fleet.conf", "PermitRootLogin prohibit-password\nPasswordAuthentication yes\nUseDNS no\n")
    run("systemctl", "--root=" + root, "--quiet", "enable", "systemd-networkd.service", "ssh.service")
    # Scenarios start what they need of these themselves.
    services = [name for name in SERVICES if os.path.exists(os.path.join(root, "lib/systemd/system", name))]
    run("systemctl", "--root=" + root, "--quiet", "mask", *MASKED, *services)
