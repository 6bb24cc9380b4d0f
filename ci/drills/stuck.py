"""What makes deployments wait: each time `plenum app why` names what is in the way and what would help within 5 s, and a corrected app is taken at once, without
force. A second agent, with its own address, is lost in the middle of a deployment."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time

from common import PATIENCE, PLENUM, Drill, Instance, until
from registry import Registry

drill, instance = Drill("stuck"), Instance(sys.argv[1])
room = tempfile.TemporaryDirectory(prefix="plenum-drill-")
registry = Registry(f"{room.name}/registry")
MARATHON = "/service/marathon/v2"
TRY = {"instances": 1, "cpus": 0.01, "mem": 16, "cmd": "exec sleep 1000"}


def app(name, **more):
    return {**TRY, "id": f"/stuck/{name}", **more}


def put(body):
    """Deploys without force."""
    return instance.api("PUT", f"{MARATHON}/apps{body['id']}?partialUpdate=false", body)


def why(name):
    """What the command says."""
    return json.loads(instance.plenum("app", "why", f"/stuck/{name}", "-o", "json", "--instance", instance.name))


def settled(name, count=1):
    """As many instances run as are wanted, and nothing deploys."""
    found = instance.api("GET", f"{MARATHON}/apps/stuck/{name}")[1]["app"]
    return found["tasksRunning"] == found["instances"] == count and not found["deployments"]


def stuck(name, wrong, right, kinds, words, since=None, count=1):
    """Deploys `wrong`, looks what is said, deploys `right`."""
    began = time.monotonic()
    if wrong is not None:
        status, answer = put(wrong)
        if status not in (200, 201):
            raise RuntimeError(f"{name}: {status} {answer}")
    if since:
        since()
        began = time.monotonic()
    named = lambda: [one for one in why(name)["blockers"] if one["kind"] in kinds and all(w in one["text"] + one["fix"] for w in words)]
    found, _ = until(f"what is in the way of {name}", named, 20)
    took = time.monotonic() - began
    said = found[0] if found else why(name)
    drill.promise(f"{name}: what is in the way is named within 5 s", found and took <= 5 * PATIENCE, f"{took:.1f} s, {said.get('text', said)}")
    drill.promise(f"{name}: so is what would help", found and said["fix"], said.get("fix", ""))
    status, answer = put(right)
    drill.promise(f"{name}: a corrected app is taken without force", status in (200, 201), f"{status} {answer}" if status not in (200, 201) else "")
    done, took = until(f"{name} as wanted", lambda: settled(name, count), 20)
    drill.promise(f"{name}: it deploys", done, f"{took:.1f} s" if done else json.dumps(why(name)))
    instance.api("DELETE", f"{MARATHON}/apps/stuck/{name}?force=true")
    until(f"{name} gone", lambda: instance.api("GET", f"{MARATHON}/apps/stuck/{name}")[0] == 404, 30)


def second_agent():
    """Another agent beside the instance's own."""
    other = instance.node.rsplit(".", 1)[0] + ".2"
    with open(f"{instance.state}/config/agent.toml", encoding="utf-8") as file:
        text = file.read()
    network, host = text.split("[agent.networks]")
    lines = []
    for line in network.splitlines():
        if line.startswith(("listen", "hostname", "ip ")):
            line = line.replace(instance.node, other)
        if line.startswith(("data", "work_dir", "run_dir", "log_file")):
            line = line.replace("/agent", "/second")
        lines.append(line)
    path = f"{room.name}/second.toml"
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n[agent.networks]" + host.replace(f'instance = "{instance.name}"', f'instance = "{instance.name}b"'))
    log = open(f"{room.name}/second.log", "w", encoding="utf-8")
    process = subprocess.Popen([PLENUM, "agent", "--config", path], stdout=log, stderr=log, start_new_session=True)
    nodes = lambda: len([one for one in instance.api("GET", "/mesos/slaves")[1]["slaves"] if one["active"]]) == 2
    if not until("two nodes", nodes, 30)[0]:
        with open(log.name, encoding="utf-8") as file:
            print(file.read()[-3000:])
    return process, other


def running():
    """The nodes that the spread app's instances run on."""
    tasks = instance.api("GET", f"{MARATHON}/apps/stuck/spread/tasks")[1]["tasks"]
    return {one["host"] for one in tasks if one["state"] == "TASK_RUNNING"}


second = None
try:
    instance.up()
    instance.login()
    instance.settings("[agent.images.authorities]", f'[agent.images.authorities]\n"{registry.host}" = "{registry.ca}"')
    stuck(
        "constraint", app("constraint", constraints=[["hostname", "LIKE", "nowhere"]]), app("constraint"),
        ["nothingFits"], ["nowhere", "loosen hostname:LIKE:nowhere"],
    )
    image = {"type": "MESOS", "docker": {"image": f"{registry.host}/nothing/here:1"}}
    stuck("image", app("image", container=image), app("image"), ["failing"], ["nothing/here", "deploy a corrected version"])
    check = {"protocol": "COMMAND", "command": {"value": "false"}, "delaySeconds": 0, "intervalSeconds": 1, "timeoutSeconds": 1, "gracePeriodSeconds": 0}
    stuck("check", app("check", healthChecks=[check]), app("check"), ["unhealthy", "failing"], ["health check", "corrected"])
    serves = lambda path: {"cmd": "echo > warm; exec busybox httpd -f -p $PORT0", "portDefinitions": [{"port": 0, "name": "web"}],
                           "readinessChecks": [{"portName": "web", "path": path, "intervalSeconds": 2, "timeoutSeconds": 1}]}
    stuck("readiness", app("readiness", **serves("/missing")), app("readiness", **serves("/warm")), ["unready"], ["status 404", "corrected"])
    ports = lambda number: {"portDefinitions": [{"port": number}], "requirePorts": True}
    put(app("holder", **ports(7777)))
    until("the holder", lambda: settled("holder"), 20)
    stuck("port", app("port", **ports(7777)), app("port", **ports(7778)), ["nothingFits"], ["7777", "free port 7777"])
    quota = {"type": "UPDATE_QUOTA", "update_quota": {"force": True, "quota_configs": [{"role": "poor", "limits": {"cpus": {"value": 0.5}, "mem": {"value": 64}}}]}}
    status, answer = instance.api("POST", "/mesos/api/v1", quota)
    if status != 200:
        raise RuntimeError(f"quota: {status} {answer}")
    put(app("first", role="poor", cpus=0.4))
    until("the first of the role", lambda: settled("first"), 20)
    stuck("quota", app("quota", role="poor", cpus=0.4), app("quota", role="poor", cpus=0.1), ["quotaFull"], ["poor", "cpus"])
    second, other = second_agent()
    # In the middle of a deployment, an instance on each node waits for its health, one of the nodes falls silent.
    check = {"protocol": "COMMAND", "command": {"value": "test -e healthy"}, "delaySeconds": 0, "intervalSeconds": 1, "timeoutSeconds": 1, "gracePeriodSeconds": 900}
    spread = app("spread", instances=2, constraints=[["hostname", "UNIQUE"]], healthChecks=[check])

    def lost():
        until("one on each node", lambda: len(running()) == 2, 20)
        os.kill(second.pid, signal.SIGSTOP)
        gone = lambda: [one for one in instance.api("GET", "/mesos/slaves")[1]["slaves"] if one["active"]]
        print(f"       the node's silence is noticed after {until('the loss', lambda: len(gone()) == 1, 60)[1]:.1f} s")

    stuck("spread", spread, app("spread"), ["unreachable"], ["out of reach", "bring the node back"], since=lost)
finally:
    if second:
        os.kill(second.pid, signal.SIGKILL)
        second.wait(10)
    registry.stop()
drill.end()
