"""A pod of three containers, each of an image: one network, one volume, three health checks. The agent is killed under it; one of the three fails
and the others end with it; nothing is left."""

import json
import os
import signal
import sys
import tempfile

from common import Drill, Instance, ok, request, until
from framework import Framework
from leftovers import counts
from registry import LOGIN, Registry, busybox

drill, instance = Drill("pods"), Instance(sys.argv[1])
room = tempfile.TemporaryDirectory(prefix="plenum-drill-")
registry = Registry(f"{room.name}/registry")
registry.push("pod/tools", "1", [busybox()], {"Env": ["PATH=/bin"]})

instance.up()
instance.login()
credentials = f"{room.name}/config.json"
with open(credentials, "w", encoding="utf-8") as file:
    json.dump({"auths": {registry.host: {"auth": LOGIN}}}, file)
instance.settings("[agent.images.authorities]", f'[agent.images.authorities]\n"{registry.host}" = "{registry.ca}"')
instance.settings("[agent.images]", f'[agent.images]\ndocker_config = "{credentials}"')
start = counts(instance)
framework = Framework(instance.node, instance.token)


def scalars(offer, **values):
    """Resources of an offer's role."""
    return [{"name": name, "type": "SCALAR", "scalar": {"value": value}, "allocation_info": {"role": "*"}} for name, value in values.items()]


SHARING = {"share_pid_namespace": True, "ipc_mode": "SHARE_PARENT"}


def task(offer, name, command, check, linux=None):
    """A task of the pod; one volume is the pod's, the other an image."""
    image = {"type": "DOCKER", "docker": {"name": f"{registry.host}/pod/tools:1"}}
    source = {"type": "SANDBOX_PATH", "sandbox_path": {"type": "PARENT", "path": "shared"}}
    return {"name": name, "task_id": {"value": name}, "agent_id": offer["agent_id"], "resources": scalars(offer, cpus=0.1, mem=32),
            "command": {"value": command, "shell": True},
            "container": {"type": "MESOS", "mesos": {"image": image},
                          "volumes": [{"container_path": "/shared", "mode": "RW", "source": source},
                                                                               {"container_path": "/other", "mode": "RO", "image": image}], **({"linux_info": linux} if linux else {})},
            "health_check": {"delay_seconds": 0, "interval_seconds": 0.5, "timeout_seconds": 5, "grace_period_seconds": 30,
                             "consecutive_failures": 5, **check}}


def pod(offer):
    """The launch of the group."""
    ports = [{"name": "ports", "type": "RANGES", "ranges": {"range": [{"begin": 31000, "end": 31000}]}, "allocation_info": {"role": "*"}}]
    executor = {"type": "DEFAULT", "executor_id": {"value": "pod"}, "framework_id": framework.id,
                "resources": scalars(offer, cpus=0.1, mem=32, disk=16) + ports,
                "container": {"type": "MESOS", "network_infos": [
                    {"name": "mesos-bridge", "port_mappings": [{"host_port": 31000, "container_port": 8080, "protocol": "tcp"}]}]}}
    tasks = [
        task(offer, "web", "echo up > /dev/shm/web; while [ ! -e /shared/page ]; do sleep 0.1; done; ln -s /shared/page /tmp/index.html; exec httpd -f -p 8080 -h /tmp",
             {"type": "HTTP", "http": {"port": 8080, "path": "/index.html", "scheme": "http"}}, SHARING),
        task(offer, "writer", "echo by the writer > /shared/page; while [ ! -e /shared/fall ]; do sleep 0.1; done; exit 7",
             {"type": "COMMAND", "command": {"value": "test -x /other/bin/busybox && test -s /dev/shm/web && cat /proc/[0-9]*/comm | grep -q httpd"}}, SHARING),
        task(offer, "watcher", "exec sleep 1000", {"type": "TCP", "tcp": {"port": 8080}}),
    ]
    return [{"type": "LAUNCH_GROUP", "launch_group": {"executor": executor, "task_group": {"tasks": tasks}}}]


names = ["web", "writer", "watcher"]
framework.accept(pod)
healthy, took = until("all healthy", lambda: all(framework.last(name).get("healthy") for name in names), 60)
drill.promise("three containers run and their three checks hold, of which one looks at an image in a volume, and at processes and memory that two of them share", healthy, f"{took:.2f} s")
for name in names:
    if not healthy:
        print(json.dumps(framework.last(name), indent=1))
networks = [framework.last(name).get("container_status", {}).get("network_infos", [{}])[0] for name in names]
addresses = {json.dumps(network.get("ip_addresses")) for network in networks}
drill.promise("they have one address, which their statuses tell", len(addresses) == 1 and "172.31." in min(addresses), addresses)
page, _ = until("the mapped port", lambda: ok(instance.node, 31000), 10)
drill.promise("the pod's mapped port serves what another container wrote to the shared volume", page == "by the writer\n", page)

before = instance.pids()["agent"]
os.kill(before, signal.SIGKILL)
drill.promise("the port answers while the agent is dead", ok(instance.node, 31000) == "by the writer\n")
until("the agent serving", lambda: request(instance.node, 5051, "GET", "/health")[0] == 200, 30)
drill.promise("no task ended with the agent", all(framework.states(name)[-1] == "TASK_RUNNING" for name in names))
state = json.loads(request(instance.node, 5051, "GET", "/state", headers={"Authorization": f"token={instance.token}"})[1])
directory = state["frameworks"][-1]["executors"][0]["directory"]
with open(f"{directory}/shared/fall", "w", encoding="utf-8"):
    pass
ended = lambda: all(framework.states(name)[-1] in ("TASK_FAILED", "TASK_KILLED", "TASK_FINISHED") for name in names)
until("the end of all", ended, 30)
ends = {name: framework.states(name)[-1] for name in names}
drill.promise("one that fails ends the group", ends == {"web": "TASK_KILLED", "writer": "TASK_FAILED", "watcher": "TASK_KILLED"}, ends)
message = framework.last("writer").get("message")
drill.promise("with its exit code", message == "Command exited with status 7", message)
left, _ = until("nothing left", lambda: counts(instance) == start or None, 15)
drill.promise("mounts, interfaces, mapped ports and folders are as before", left, f"{start} and {counts(instance)}")
registry.stop()
drill.end()
