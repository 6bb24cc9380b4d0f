"""What containers may leave behind, counted."""

import json
import os
import subprocess


def ruleset():
    """The elements of every map and set of the kernel's tables."""
    answer = subprocess.run(["nft", "-j", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    for entry in json.loads(answer)["nftables"]:
        for kind in ("map", "set"):
            if kind in entry and "plenum" in entry[kind]["table"]:
                yield from ((entry[kind]["name"], json.dumps(element)) for element in entry[kind].get("elem", []))


def supervisors(instance):
    """Processes that watch over containers of the instance."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                name = file.read().strip()
            if name == "plenum-shim" and f"/{instance.name}/" in os.readlink(f"/proc/{pid}/cwd"):
                found.append(int(pid))
        except OSError:
            continue
    return found


def counts(instance):
    """Mounts but the one that holds namespaces, pairs of interfaces, mapped ports, folders, control groups, supervisors."""
    with open("/proc/mounts", encoding="utf-8") as file:
        mounts = [line for line in file if f"/{instance.name}/" in line and not line.split()[1].endswith("/networks/netns")]
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True).stdout)
    scratch = f"{instance.state}/agent/provisioner"
    return {"mounts": len(mounts), "control groups": len(groups(instance)), "supervisors": len(supervisors(instance)), "interfaces": len([link for link in links if link["ifname"].startswith("pv")]),
            "mapped ports": len([name for name, _ in ruleset() if name.startswith("ports")]),
            "folders": len(os.listdir(scratch)) if os.path.exists(scratch) else 0}


def groups(instance):
    """Control groups of containers of an instance, in every hierarchy; with v2 alone its tree is mounted where there is otherwise a folder for each."""
    found = []
    for hierarchy in ["", *(os.listdir("/sys/fs/cgroup") if os.path.exists("/sys/fs/cgroup") else [])]:
        root = os.path.join("/sys/fs/cgroup", hierarchy, f"plenum-{instance.name}")
        for folder, _, _ in os.walk(root):
            if folder != root and folder != os.path.join(root, "shims"):
                found.append(folder)
    return found


def processes(instance):
    """Processes of containers: the supervisor and PID 1 of each, which work in its folder, and whoever has a sandbox of the instance."""
    found = []
    run, sandboxes = f"/run/plenum/{instance.name}/agent/containers/", f"{instance.state}/agent/slaves/"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environment = file.read()
            with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
                inside = f"/plenum-{instance.name}/" in file.read()
            at = os.readlink(f"/proc/{pid}/cwd") + "/"
            if inside or at.startswith((run, sandboxes)) or b"MESOS_SANDBOX=" + sandboxes.encode() in environment:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    found.append(f"{pid} {file.read()[:80].replace(bytes(1), b' ').decode(errors='replace')}")
        except OSError:
            continue
    return found


def everything(instance):
    """All of `counts`, and control groups, processes, folders in memory, images that are held or half there."""
    found = counts(instance)
    found["groups"], found["processes"] = len(groups(instance)), len(processes(instance))
    for what, folder in (("run", f"/run/plenum/{instance.name}/agent/containers"), ("files", f"/run/plenum/{instance.name}/agent/provisioner"),
                         ("holds", f"{instance.state}/agent/images/holds"), ("unpacking", f"{instance.state}/agent/images/tmp")):
        found[what] = len(os.listdir(folder)) if os.path.exists(folder) else 0
    return found
