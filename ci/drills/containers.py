"""Containers as a user has them: an image from a registry with TLS and a password, run natively with a network of its own, volumes, ports; the
agent is killed under it; everything that a container had is gone when it is."""

import io
import json
import os
import signal
import sys
import stat
import tarfile
import tempfile
import time

from common import PATIENCE, Drill, Instance, ok, request, until
from leftovers import counts
from plugin import Plugin
from registry import LOGIN, Registry, busybox, layer

drill, instance = Drill("containers"), Instance(sys.argv[1])
room = tempfile.TemporaryDirectory(prefix="plenum-drill-")
registry = Registry(f"{room.name}/registry")
MARATHON = "/service/marathon/v2"


def run(app, seconds=60):
    """Deploys an app and waits until it is healthy, or has run; gives the task."""
    status, answer = instance.api("PUT", f"{MARATHON}/apps/{app['id']}?force=true", app)
    if status not in (200, 201):
        raise RuntimeError(f"{app['id']}: {status} {answer}")

    def running():
        found = instance.api("GET", f"{MARATHON}/apps/{app['id']}")[1]["app"]
        checks = bool(app.get("healthChecks"))
        return found["tasks"] if found["tasksHealthy" if checks else "tasksRunning"] == found["instances"] else None

    found, took = until(f"{app['id']} running", running, seconds)
    if not found:
        print(json.dumps(instance.api("GET", f"{MARATHON}/apps/{app['id']}")[1].get("app", {}).get("lastTaskFailure"), indent=1))
    return (found or [{}])[0], took


def failure(app, seconds=60):
    """Deploys an app that cannot run; gives what its last task said."""
    instance.api("PUT", f"{MARATHON}/apps/{app['id']}?force=true", app)
    said = lambda: instance.api("GET", f"{MARATHON}/apps/{app['id']}?embed=app.lastTaskFailure")[1]["app"].get("lastTaskFailure")
    found, _ = until(f"{app['id']} failing", said, seconds)
    remove(app["id"])
    return (found or {}).get("message", "")


def remove(name):
    """Removes an app and waits until it is gone."""
    instance.api("DELETE", f"{MARATHON}/apps/{name}?force=true")
    until(f"{name} gone", lambda: instance.api("GET", f"{MARATHON}/apps/{name}")[0] == 404, 30)


def trust():
    """Has the agent trust the registry's authority."""
    instance.settings("[agent.images.authorities]", f'[agent.images.authorities]\n"{registry.host}" = "{registry.ca}"')


def inside(task, words):
    """Runs a command in the task by the product's own command line."""
    return instance.plenum("task", "exec", task["id"], "--instance", instance.name, "--", *words)


# An image of two layers: the second hides a file of the first and brings the site.
site = layer({"srv": (None, 0o755, 1234), "srv/index.html": (b"from the image\n", 0o644, 1234), "etc/.wh.secret": b""})
below = layer({"etc": None, "etc/secret": b"hidden"})
config = {"Entrypoint": ["httpd", "-f", "-h", "/srv"], "Cmd": ["-p", "8080"], "User": "web", "WorkingDir": "/srv",
          "Env": ["PATH=/bin", "GREETING=hello"], "StopSignal": "SIGKILL", "Volumes": {"/srv": {}}}
digest = registry.push("shop/site", "1", [busybox(), below, site], config)
registry.push("shop/tools", "1", [busybox()], {"Env": ["PATH=/bin"]})

with tarfile.open(f"{room.name}/docker.tar.gz", "w:gz") as archive:
    text = json.dumps({"auths": {registry.host: {"auth": LOGIN}}}).encode()
    entry = tarfile.TarInfo(".docker/config.json")
    entry.size = len(text)
    archive.addfile(entry, io.BytesIO(text))
fetch = [{"uri": f"file://{room.name}/docker.tar.gz"}]

instance.up()
instance.login()
shared = f"{room.name}/shared"
os.makedirs(f"{shared}/deep")
os.symlink("/etc", f"{shared}/way-out")
trust()
start = counts(instance)

image = {"image": f"{registry.host}/shop/site:1"}
web = {"id": "/site", "cpus": 0.1, "mem": 32, "instances": 1, "fetch": fetch,
       "container": {"type": "MESOS", "docker": image, "portMappings": [{"containerPort": 8080, "hostPort": 0, "name": "http"}]},
       "networks": [{"mode": "container/bridge"}],
       "healthChecks": [{"protocol": "MESOS_HTTP", "path": "/", "portIndex": 0, "intervalSeconds": 1, "gracePeriodSeconds": 30}]}

message = failure({**web, "id": "/nobody", "fetch": []})
drill.promise("without a password the refusal says so", "does not allow" in message, message)
message = failure({**web, "id": "/typo", "container": {**web["container"], "docker": {"image": f"{registry.host}/shop/nothing:1"}}})
drill.promise("an image that is not there is named", "shop/nothing" in message, message)

task, took = run(web)
drill.promise("an image from a registry with TLS and a password runs", task, f"healthy after {took:.2f} s")
if task:
    port = task["ports"][0]
    page, _ = until("the mapped port", lambda: ok(instance.node, port), 10)
    drill.promise("its mapped port answers on the node", page == "from the image\n", page)
    address = (task.get("ipAddresses") or [{}])[0].get("ipAddress", "")
    drill.promise("the task's status has the container's own address", address.startswith("172.31."), address)
    page, _ = until("its own address", lambda: ok(address, 8080), 5)
    drill.promise("its own address answers", page == "from the image\n", page)
    seen = inside(task, ["sh", "-c", "id -u; pwd; echo $GREETING; ls /etc/secret 2>&1; echo $MESOS_SANDBOX; stat -c %u $MESOS_SANDBOX"])
    want = ["1234", "/srv", "hello", "ls: /etc/secret: No such file or directory", "/mnt/mesos/sandbox", "1234"]
    drill.promise("user, folder, environment, hidden files and sandbox are as the image has them", seen.split("\n")[:6] == want, seen.split("\n"))
    # The cluster's names lead to the task by its own address.
    said = inside(task, ["sh", "-c", "cat /etc/resolv.conf; nslookup site.marathon.containerip.dcos.thisdcos.directory 2>&1"])
    drill.promise("the cluster's names are resolved in the container's network", address in said.split("Name:")[-1], said)
    before = instance.pids()["agent"]
    os.kill(before, signal.SIGKILL)
    drill.promise("the port answers while the agent is dead", ok(instance.node, port) == "from the image\n")
    until("the agent restarted", lambda: instance.pids()["agent"] not in (None, before), 30)
    again = lambda: instance.api("GET", f"{MARATHON}/apps/site")[1]["app"]["tasks"][0]
    until("the agent serving", lambda: request(instance.node, 5051, "GET", "/health")[0] == 200, 30)
    drill.promise("the same task runs afterwards, with its address", again()["id"] == task["id"] and
                  again().get("ipAddresses") == task.get("ipAddresses"), again().get("ipAddresses"))
    drill.promise("and its port answers", ok(instance.node, port) == "from the image\n")
    registry.stop()
    instance.api("DELETE", f"{MARATHON}/apps/site/tasks/{task['id']}")
    fresh = lambda: next((one for one in instance.api("GET", f"{MARATHON}/apps/site")[1]["app"]["tasks"]
                          if one["id"] != task["id"] and any(check.get("alive") for check in one.get("healthCheckResults", []))), None)
    replaced, took = until("another instance without the registry", fresh, 30)
    drill.promise("another instance starts without the registry: the image is here", replaced, f"{took:.2f} s")
remove("site")
left, _ = until("nothing left of it", lambda: counts(instance) == start or None, 15)
drill.promise("mounts, interfaces, mapped ports and folders are as before", left, f"{start} and {counts(instance)}")

registry = Registry(f"{room.name}/registry-again", port=5444)
tools = {"image": f"{registry.host}/shop/tools:1"}
registry.push("shop/tools", "1", [busybox()], {"Env": ["PATH=/bin"]})
trust()
with tarfile.open(f"{room.name}/docker.tar.gz", "w:gz") as archive:
    text = json.dumps({"auths": {registry.host: {"auth": LOGIN}}}).encode()
    entry = tarfile.TarInfo(".docker/config.json")
    entry.size = len(text)
    archive.addfile(entry, io.BytesIO(text))
work = {"id": "/volumes", "cpus": 0.1, "mem": 32, "instances": 1, "fetch": fetch, "cmd": "sleep 1000",
        "container": {"type": "MESOS", "docker": tools, "volumes": [{"containerPath": "/data", "hostPath": shared, "mode": "RW"}]}}
message = failure(work)
drill.promise("a path of the machine that is not allowed is refused, and the setting named", "host_paths" in message, message)
instance.settings("host_paths = []", f'host_paths = ["{shared}"]')
work["container"]["volumes"] += [{"containerPath": "/deep", "hostPath": f"{shared}/deep", "mode": "RO"},
                                 {"containerPath": "scratch", "hostPath": "made", "mode": "RW"}]
task, _ = run(work)
if task:
    inside(task, ["sh", "-c", "echo kept > /data/file; echo own > $MESOS_SANDBOX/scratch/file"])
    with open(f"{shared}/file", encoding="utf-8") as file:
        drill.promise("what is written to a volume is on the machine", file.read() == "kept\n")
    said = inside(task, ["sh", "-c", "touch /deep/x 2>&1; true"])
    drill.promise("a read-only volume cannot be written to", "Read-only" in said, said.strip())
remove("volumes")
# What the image calls a volume can be written, whatever is said of its root.
registry.push("shop/kept", "1", [busybox(), layer({"keep": (None, 0o755, 1234), "keep/seed": (b"seed", 0o644, 1234)})],
              {"Env": ["PATH=/bin"], "User": "web", "Volumes": {"/keep": {}, "/made": {}}})
kept = {"id": "/kept", "cpus": 0.1, "mem": 32, "instances": 1, "fetch": fetch, "cmd": "sleep 1000", "labels": {"PLENUM_READ_ONLY_ROOT": "true"},
        "container": {"type": "MESOS", "docker": {"image": f"{registry.host}/shop/kept:1"}}}
task, _ = run(kept)
if task:
    said = inside(task, ["sh", "-c", "cat /keep/seed; echo; touch /keep/new && echo kept; ls -d /made; touch /tmp/new 2>&1 || true"])
    want = said.split("\n")[:3] == ["seed", "kept", "/made"] and "Read-only" in said
    drill.promise("an image's volumes have its content and can be written where its root cannot", want, said.split("\n"))
remove("kept")
# The tag stands for other bytes from the second on.
mark = lambda text: layer({"mark": (text, 0o644, 0)})
registry.push("shop/tagged", "1", [busybox(), mark(b"first")], {"Env": ["PATH=/bin"]})
tagged = {"id": "/tagged", "cpus": 0.1, "mem": 32, "instances": 1, "fetch": fetch, "cmd": "sleep 1000",
          "container": {"type": "MESOS", "docker": {"image": f"{registry.host}/shop/tagged:1", "forcePullImage": True}}}
marks = lambda: sorted(inside(one, ["cat", "/mark"]) for one in instance.api("GET", f"{MARATHON}/apps/tagged/tasks")[1]["tasks"])
if run(tagged)[0]:
    registry.push("shop/tagged", "1", [busybox(), mark(b"second")], {"Env": ["PATH=/bin"]})
    run({"id": "/tagged", "instances": 2})
    seen = marks()
    drill.promise("every instance runs the bytes of the first, though the tag moved", seen == ["first", "first"], f"{seen}")
    instance.api("POST", f"{MARATHON}/apps/tagged/restart")
    seen, _ = until("a new deployment done", lambda: marks() == ["second", "second"] or None, 30)
    drill.promise("a new deployment runs what the tag stands for then", seen, f"{marks()}")
remove("tagged")
remove("volumes")
out = {**work, "id": "/way-out", "container": {**work["container"],
       "volumes": [{"containerPath": "/data", "hostPath": f"{shared}/way-out", "mode": "RW"}]}}
message = failure(out)
drill.promise("a link does not lead out of what is allowed", message and "passwd" not in message, message)
remove("way-out")
# A volume of somebody's driver.
driver = f"drill-{os.getpid()}"
plugin = Plugin(driver, f"{room.name}/volumes")
work = {"id": "/driver", "cpus": 0.1, "mem": 32, "instances": 1, "fetch": fetch, "cmd": "sleep 1000",
        "container": {"type": "MESOS", "docker": tools, "volumes": [
            {"containerPath": "/data", "mode": "RW", "external": {"name": "v", "provider": "dvdi", "options": {"dvdi/driver": driver}}}]}}
try:
    message = failure(work)
    drill.promise("a volume driver that is not allowed is refused, and the setting named", "volume_drivers" in message and not plugin.asked, message)
    instance.settings("volume_drivers = []", f'volume_drivers = ["{driver}"]')
    task, _ = run(work)
    if task:
        inside(task, ["sh", "-c", "echo kept > /data/file"])
        kept = plugin.mounted() == 1 and os.path.exists(f"{room.name}/volumes/v/file")
        drill.promise("a driver's volume is mounted for its task", kept, plugin.asked)
        os.kill(instance.pids()["agent"], signal.SIGKILL)
    remove("driver")
    gone, _ = until("given back", lambda: plugin.mounted() == 0, 30)
    drill.promise("it is given back, though the agent was killed", gone, plugin.asked)
finally:
    plugin.stop()
# Character devices that every kernel has stand in for graphics processors.
gpus = [f"{room.name}/{name}" for name in ("gpu0", "gpu1")]
for path, minor in zip(gpus, (8, 9)):
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
instance.settings("gpus = []", f"gpus = {[[path] for path in gpus]}")
look = "ls /dev | grep gpu; head -c 1 /dev/gpu* | wc -c; echo $NVIDIA_VISIBLE_DEVICES"
work = {"id": "/train", "cpus": 0.1, "mem": 32, "instances": 2, "gpus": 1, "fetch": fetch, "cmd": "sleep 1000",
        "container": {"type": "MESOS", "docker": tools}}
task, _ = run(work)
if task:
    def both():
        tasks = instance.api("GET", f"{MARATHON}/apps/train/tasks")[1]["tasks"]
        return [t for t in tasks if t["state"] == "TASK_RUNNING"] if len(tasks) == 2 else None

    until("two of them", lambda: len(both() or []) == 2 or None, 30)
    seen = sorted(inside(one, ["sh", "-c", look]).split() for one in both())
    drill.promise("each of two tasks has one graphics processor of its own, and the number", seen == [["gpu0", "1", "0"], ["gpu1", "1", "1"]], f"{seen}")
remove("train")
left, _ = until("nothing left of it", lambda: counts(instance) == start or None, 15)
drill.promise("nothing is left of any of them", left, f"{start} and {counts(instance)}")
registry.stop()
began = time.monotonic()
instance.plenum("down", "--instance", instance.name)
took = time.monotonic() - began
drill.promise("everything ends when it is asked to, and need not be killed", took < 8 * PATIENCE, f"{took:.2f} s")
drill.end()
