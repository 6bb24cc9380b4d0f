"""An app with a persistent volume writes into it, and finds what it wrote after a failure, a restart, an upgrade, a kill, a pause without instances, and after
everything was killed at once. Nobody else gets what is reserved for it. Wiped, or removed with its app, nothing of it is left on the disk or reserved."""

import glob
import json
import os
import signal
import sys

from common import Drill, Instance, until
from leftovers import supervisors

drill, instance = Drill("residents"), Instance(sys.argv[1])
MARATHON = "/service/marathon/v2"
CMD = "echo {} >> data/runs; exec sleep 1000"
APP = {"id": "/db", "role": "residents", "instances": 1, "cpus": 0.1, "mem": 32, "cmd": CMD.format("first"), "portDefinitions": [{"port": 0, "name": "db"}],
       "container": {"type": "MESOS", "volumes": [{"containerPath": "data", "mode": "RW", "persistent": {"size": 16}}]}}


def marathon(method, path, body=None, want=(200, 201)):
    """Asks, and fails unless the answer is as wanted."""
    status, answer = instance.api(method, MARATHON + path, body)
    if status not in want:
        raise RuntimeError(f"{method} {path}: {status} {answer}")
    return answer


def settled(count=1):
    """The app's tasks, once as many run as are wanted and nothing deploys."""
    app = marathon("GET", "/apps/db")["app"]
    return app["tasks"] if app["tasksRunning"] == app["instances"] == count and not app["deployments"] else None


def volumes():
    """What lies on the disk."""
    return glob.glob(f"{instance.state}/agent/volumes/roles/residents/*")


def reserved():
    """What is reserved on the node, by instance."""
    full = instance.api("GET", "/mesos/slaves")[1]["slaves"][0].get("reserved_resources_full", {})
    labels = [label for one in full.get("residents", []) for label in one["reservations"][-1]["labels"]["labels"]]
    return sorted({label["value"] for label in labels if label["key"] == "marathon_task_id"})


def runs():
    """What was written into the volume, run by run."""
    found = volumes()
    if len(found) != 1:
        return found
    with open(f"{found[0]}/runs", encoding="utf-8") as file:
        return file.read().split()


def back(what, want, act, seconds=30):
    """The app does `act`, and is back on the same volume, with one more line in it."""
    before = settled()[0]
    act()
    again = lambda: runs() == want and settled() and settled()[0]["id"] != before["id"]
    done, took = until(f"the app after {what}", again, seconds)
    drill.promise(f"{what}: it runs again on its data", done, f"{took:.1f} s, {runs()}" if done else f"{runs()} {why()}")
    now = (settled() or [{}])[0]
    drill.promise(f"{what}: the same instance, node, volume and ports", all(now.get(k) == before[k] for k in ("localVolumes", "slaveId", "ports")), now.get("id"))


def why():
    """What is in its way."""
    return json.dumps(marathon("GET", "/apps/db/why"))


def child():
    """The process of the app."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if file.read() != b"sleep\x001000\x00":
                    continue
            with open(f"/proc/{pid}/environ", "rb") as file:
                if b"MARATHON_APP_ID=/db" in file.read():
                    found.append(int(pid))
        except OSError:
            continue
    return found


def kill_everything():
    """All components, their supervisor, and what watches over containers."""
    status = instance.status()
    containers = supervisors(instance) + child()
    for pid in [status["pid"], *[role.get("pid") for role in status["roles"]], *containers]:
        if pid:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    instance.up()
    until("the scheduler", lambda: marathon("GET", "/info")["frameworkId"], 30)


def kept():
    """The app has no instances, and the volume stays."""
    marathon("PUT", "/apps/db?force=true", {"instances": 0})
    until("no instance", lambda: settled(0) is not None, 30)
    shown = marathon("GET", "/apps/db/tasks")["tasks"]
    drill.promise("without instances: what is kept is shown", len(shown) == 1 and shown[0]["localVolumes"] == first["localVolumes"], shown)
    drill.promise("without instances: the volume and its reservation stay", len(volumes()) == 1 and len(reserved()) == 1, reserved())
    agent = instance.api("GET", "/mesos/slaves")[1]["slaves"][0]["resources"]
    greedy = {"id": "/greedy", "role": "residents", "cmd": "exec sleep 1000", "cpus": agent["cpus"], "mem": 32}
    marathon("POST", "/apps", greedy)
    broken = lambda: any(b["rule"] == "cpus" for n in marathon("GET", "/apps/greedy/why")["nodes"] for b in n["broken"])
    drill.promise("without instances: an app of the same role that wants all of the node does not get it", until("a verdict", broken, 20)[0])
    marathon("DELETE", "/apps/greedy?force=true")
    marathon("PUT", "/apps/db?force=true", {"instances": 1})


instance.up()
instance.login()
marathon("POST", "/apps", APP)
found, took = until("the first launch", settled, 30)
drill.promise("an app with a volume deploys", found, f"{took:.1f} s" if found else why())
first = found[0]
until("the first line", lambda: runs() == ["first"], 10)
drill.promise("it writes into its volume", runs() == ["first"], runs())
drill.promise("everything that it takes is reserved for its instance", [first["id"].startswith(one) for one in reserved()] == [True], reserved())
back("a failure", ["first"] * 2, lambda: [os.kill(pid, signal.SIGKILL) for pid in child()])
back("a restart", ["first"] * 3, lambda: marathon("POST", "/apps/db/restart"))
back("an upgrade", ["first"] * 3 + ["second"], lambda: marathon("PUT", "/apps/db?force=true", {"cmd": CMD.format("second")}))
back("a kill", ["first"] * 3 + ["second"] * 2, lambda: marathon("DELETE", f"/apps/db/tasks/{settled()[0]['id']}"))
back("a pause", ["first"] * 3 + ["second"] * 3, kept)
back("the end of everything", ["first"] * 3 + ["second"] * 4, kill_everything, 60)

marathon("DELETE", f"/apps/db/tasks/{settled()[0]['id']}?wipe=true")
anew = lambda: runs() == ["second"] and settled() and settled()[0]["localVolumes"] != first["localVolumes"]
done, took = until("a new volume", anew, 40)
drill.promise("wiped: it starts anew on a new volume, and the old one is gone from the disk", done, f"{took:.1f} s" if done else f"{runs()} {why()}")
left = lambda: marathon("GET", "/tasks/unknown")["volumes"]
drill.promise("wiped: nothing is left to do", until("the end of it", lambda: not left(), 40)[0] and len(reserved()) == 1, f"{left()} {reserved()}")
marathon("DELETE", "/apps/db")
gone, took = until("nothing left", lambda: not volumes() and not reserved() and not left(), 60)
drill.promise("removed with its app: nothing is on the disk, and nothing is reserved", gone, f"{took:.1f} s" if gone else f"{volumes()} {reserved()} {left()}")
drill.promise("removed with its app: nothing waits to be removed", not os.listdir(f"{instance.state}/agent/volumes/.destroyed") if os.path.exists(f"{instance.state}/agent/volumes/.destroyed") else True)
drill.end()
