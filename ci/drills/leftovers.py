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


def counts(instance):
    """Mounts but the one that holds namespaces, pairs of interfaces, mapped ports, folders."""
    with open("/proc/mounts", encoding="utf-8") as file:
        mounts = [line for line in file if f"/{instance.name}/" in line and not line.split()[1].endswith("/networks/netns")]
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True).stdout)
    scratch = f"{instance.state}/agent/provisioner"
    return {"mounts": len(mounts), "interfaces": len([link for link in links if link["ifname"].startswith("pv")]),
            "mapped ports": len([name for name, _ in ruleset() if name.startswith("ports")]),
            "folders": len(os.listdir(scratch)) if os.path.exists(scratch) else 0}
