"""Apps of the type DOCKER on a Docker engine of the drill's own: pulled with a password, mapped ports, options of `docker run`, output in the
sandbox; the engine is killed and the agent too; what is not allowed is refused."""

import glob
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

from common import PLENUM, Drill, Instance, ok, request, until
from dockers import Engine, trust
from framework import Framework
from registry import LOGIN, Registry, busybox

drill, instance = Drill("docker"), Instance(sys.argv[1])
room = tempfile.TemporaryDirectory(prefix="plenum-drill-", ignore_cleanup_errors=True)
registry = Registry(f"{room.name}/registry")
registry.push("shop/tools", "1", [busybox()], {"Env": ["PATH=/bin"]})
MARATHON = "/service/marathon/v2"
dockers = Engine(room.name)
docker = dockers.docker
trusted = trust(registry.host, registry.ca)


def app(name):
    """What Marathon says of an app."""
    return instance.api("GET", f"{MARATHON}/apps/{name}?embed=app.lastTaskFailure")[1]["app"]


def put(body):
    """Deploys."""
    status, answer = instance.api("PUT", f"{MARATHON}/apps/{body['id']}?force=true", body)
    if status not in (200, 201):
        raise RuntimeError(f"{body['id']}: {status} {answer}")


def remove(name):
    """Removes an app and waits until it is gone."""
    instance.api("DELETE", f"{MARATHON}/apps/{name}?force=true")
    until(f"{name} gone", lambda: instance.api("GET", f"{MARATHON}/apps/{name}")[0] == 404, 30)


def limits(web):
    """What a task may take of memory, disk and log, and what is said of it."""
    plain = {**web, "healthChecks": [], "mem": 32}
    put({**plain, "id": "/memory", "cmd": "head -c 200000000 /dev/zero | tail"})
    message, _ = until("out of memory", lambda: app("memory").get("lastTaskFailure", {}).get("message"), 60)
    drill.promise("a task that runs out of memory learns what ran", message and "Memory limit exceeded: Requested: 32.0MB" in message and "running then: " in message, message)
    remove("memory")
    put({**plain, "id": "/disk", "disk": 4, "cmd": "head -c 9000000 /dev/zero > /layer; sleep 1000"})
    message, took = until("beyond its disk", lambda: app("disk").get("lastTaskFailure", {}).get("message"), 60)
    drill.promise("one that writes more than its disk over its image is ended", message and "isk" in message, f"{message} after {took:.0f} s")
    remove("disk")
    put({**plain, "id": "/talks", "disk": 100, "cmd": f"yes {99 * 'x'} | head -n 250000; echo all; sleep 1000"})
    found, _ = until("talks running", lambda: app("talks")["tasksRunning"] == 1 and app("talks")["tasks"], 30)
    sizes = lambda: {os.path.basename(file): os.path.getsize(file)
                     for file in glob.glob(f"{instance.state}/agent/slaves/*/frameworks/*/executors/{found[0]['id']}/runs/latest/stdout*")}
    written, _ = until("its output", lambda: sum(sizes().values()) == 25_000_004, 60)
    budget = sizes().keys() == {"stdout", "stdout.1", "stdout.2"} and max(sizes().values()) <= 10 << 20
    drill.promise("its output is rotated within its budget", written and budget, sizes())
    names = ["cpus_user_time_secs", "mem_rss_bytes", "processes", "threads", "net_rx_bytes", "disk_used_bytes", "mem_oom_kills"]
    stats = lambda: json.loads(instance.plenum("task", "stats", found[0]["id"], "--instance", instance.name, "-o", "json"))[0]["statistics"]
    # The disk is measured from time to time only.
    until("all figures", lambda: all(name in stats() for name in names) or None, 40)
    used = stats()
    drill.promise("it is measured in full", all(name in used for name in names), {name: used.get(name) for name in names})
    remove("talks")


def kept_data(web):
    """A persistent volume of a DOCKER task: written by one, read by the next."""
    framework = Framework(instance.node, instance.token, "volumes", "data")
    role = {"allocation_info": {"role": "data"}}
    disk = {"name": "disk", "type": "SCALAR", "scalar": {"value": 32}, "reservations": [{"type": "DYNAMIC", "role": "data", "principal": "admin"}], **role}
    volume = {**disk, "disk": {"persistence": {"id": "kept", "principal": "admin"}, "volume": {"mode": "RW", "container_path": "data"}}}
    scalar = lambda name, value: {"name": name, "type": "SCALAR", "scalar": {"value": value}, **role}
    image = web["container"]["docker"]["image"]

    def launch(offer, name, command):
        container = {"type": "DOCKER", "docker": {"image": image, "network": "BRIDGE"}}
        return {"type": "LAUNCH", "launch": {"task_infos": [
            {"name": name, "task_id": {"value": name}, "agent_id": offer["agent_id"], "container": container, "command": {"value": command},
             "resources": [scalar("cpus", 0.1), scalar("mem", 32), volume]}]}}

    framework.accept(lambda offer: [{"type": "RESERVE", "reserve": {"resources": [disk]}}, {"type": "CREATE", "create": {"volumes": [volume]}},
                                    launch(offer, "writes", "echo kept > /mnt/mesos/sandbox/data/file")])
    until("the first ends", lambda: framework.last("writes").get("state") in ("TASK_FINISHED", "TASK_FAILED"), 30)
    end = time.monotonic() + 30
    while time.monotonic() < end and not framework.last("reads"):
        offer = framework.next("OFFERS")["offers"]["offers"][0]
        ours = "kept" in json.dumps(offer["resources"])
        operations = [launch(offer, "reads", "test $(cat /mnt/mesos/sandbox/data/file) = kept")] if ours else []
        framework.call("ACCEPT", {"offer_ids": [offer["id"]], "operations": operations, "filters": {"refuse_seconds": 0.1}})
        if ours:
            until("the second ends", lambda: framework.last("reads").get("state") in ("TASK_FINISHED", "TASK_FAILED"), 30)
    drill.promise("a persistent volume keeps what a task on the engine wrote", framework.last("reads").get("state") == "TASK_FINISHED",
                  [framework.last("writes").get("message"), framework.last("reads").get("message")])
    framework.call("TEARDOWN", {})


def typed_at(web):
    """A task of the engine with a terminal of its own."""
    talker = {**web, "id": "/talker", "tty": True, "cmd": "while read word; do echo got $word; done; exit 5", "healthChecks": [], "networks": [{"mode": "host"}],
              "container": {"type": "DOCKER", "docker": {"image": web["container"]["docker"]["image"]}}}
    put(talker)
    task, _ = until("a task with a terminal", lambda: app("talker")["tasksRunning"] == 1 and app("talker")["tasks"][0], 60)
    attach = [PLENUM, "task", "attach", task["id"], "--instance", instance.name] if task else ["false"]
    done = subprocess.run(attach, input=b"hello\n\x04", capture_output=True, timeout=60, check=False)
    drill.promise("a task's own terminal is typed at; its exit code is the client's", b"got hello" in done.stdout and done.returncode == 5, done)
    remove("talker")


def main():
    """The drill itself."""
    dockers.containerd()
    dockers.start()
    instance.up()
    instance.login()
    instance.settings('socket = "/var/run/docker.sock"', f'socket = "{dockers.socket}"')
    with tarfile.open(f"{room.name}/docker.tar.gz", "w:gz") as archive:
        text = json.dumps({"auths": {registry.host: {"auth": LOGIN}}}).encode()
        entry = tarfile.TarInfo(".docker/config.json")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    serve = "mkdir -p /site; echo by the engine > /site/index.html; echo started; exec httpd -f -p 8080 -h /site"
    web = {"id": "/web", "cpus": 0.1, "mem": 64, "instances": 1, "cmd": serve, "fetch": [{"uri": f"file://{room.name}/docker.tar.gz"}],
           "container": {"type": "DOCKER", "portMappings": [{"containerPort": 8080, "hostPort": 0}],
                         "docker": {"image": f"{registry.host}/shop/tools:1", "forcePullImage": True,
                                    "parameters": [{"key": "env", "value": "WORD=given"}, {"key": "ulimit", "value": "nofile=512"}]}},
           "networks": [{"mode": "container/bridge"}],
           "healthChecks": [{"protocol": "MESOS_TCP", "portIndex": 0, "intervalSeconds": 1, "delaySeconds": 1, "gracePeriodSeconds": 30}]}
    put(web)
    found, took = until("web healthy", lambda: app("web")["tasksHealthy"] == 1 and app("web")["tasks"], 60)
    drill.promise("an image from a registry with TLS and a password runs on the engine", found, f"healthy after {took:.2f} s")
    if not found:
        print(json.dumps(app("web").get("lastTaskFailure"), indent=1))
        return
    task = found[0]
    port = task["ports"][0]
    page, _ = until("the mapped port", lambda: ok(instance.node, port), 10)
    drill.promise("its mapped port answers on the node", page == "by the engine\n", page)
    address = (task.get("ipAddresses") or [{}])[0].get("ipAddress", "")
    drill.promise("the task's status has its own address", address.startswith("172.30.9."), address)
    names = docker("ps", "--format", "{{.Names}}").split()
    drill.promise("the engine has it under Mesos' name", len(names) == 1 and names[0].startswith("mesos-"), names)
    said = instance.plenum("task", "exec", task["id"], "--instance", instance.name, "--", "sh", "-c", "echo $WORD; ulimit -n")
    drill.promise("options of docker run count, and commands run inside", said.split() == ["given", "512"], said.split())
    log = instance.plenum("task", "logs", task["id"], "--instance", instance.name)
    drill.promise("its output is in the sandbox", "started" in log, log.strip())

    figures = json.loads(request(instance.node, 5051, "GET", "/monitor/statistics", headers={"Authorization": f"token={instance.token}"}, timeout=20)[1])
    figures = next((one["statistics"] for one in figures if one["executor_id"] == task["id"]), {})
    told = {key: figures.get(key) for key in ("mem_limit_bytes", "mem_total_bytes", "cpus_user_time_secs", "processes")}
    drill.promise("its figures are known, and its limit holds", told["mem_limit_bytes"] == 64 << 20 and all(told.values()), told)

    dockers.kill()
    degraded = lambda: json.loads(request(instance.node, 5051, "GET", "/state", headers={"Authorization": f"token={instance.token}"})[1])["docker_engine"]
    state, _ = until("degraded", lambda: degraded()["state"] == "degraded" and degraded(), 30)
    drill.promise("the node says that its engine is degraded", state, state)
    dockers.start()
    state, _ = until("ready", lambda: degraded()["state"] == "ready" and degraded(), 30)
    drill.promise("and that it is back", state, state)
    drill.promise("the same task runs", app("web")["tasks"][0]["id"] == task["id"] and app("web")["tasksRunning"] == 1)
    before = instance.pids()["agent"]
    os.kill(before, signal.SIGKILL)
    until("the agent restarted", lambda: instance.pids()["agent"] not in (None, before), 30)
    until("the agent serving", lambda: request(instance.node, 5051, "GET", "/health")[0] == 200, 30)
    again, _ = until("the task again", lambda: app("web")["tasks"][0]["id"] == task["id"] and app("web")["tasks"][0], 10)
    drill.promise("the same task runs after the agent was killed, with its address", again and again["ipAddresses"] == task["ipAddresses"])
    remove("web")
    gone, _ = until("no container", lambda: docker("ps", "-aq").strip() == "", 20)
    drill.promise("nothing is left in the engine", gone, docker("ps", "-a").strip().split("\n")[1:])

    limits(web)
    kept_data(web)
    typed_at(web)

    hostile = {**web, "id": "/hostile", "healthChecks": [], "container": {**web["container"], "docker": {**web["container"]["docker"],
               "privileged": True}}}
    put(hostile)
    message, _ = until("a refusal", lambda: app("hostile").get("lastTaskFailure", {}).get("message"), 30)
    drill.promise("a privileged container is refused, and the setting named", message and "allow_privileged" in message, message)
    remove("hostile")
    hostile["container"]["docker"] = {**web["container"]["docker"], "parameters": [{"key": "volume", "value": "/etc:/x"}]}
    put(hostile)
    message, _ = until("a refusal", lambda: app("hostile").get("lastTaskFailure", {}).get("message"), 30)
    drill.promise("a path of the machine by an option is refused, too", message and "host_paths" in message, message)
    remove("hostile")


try:
    main()
finally:
    shutil.rmtree(trusted, ignore_errors=True)
    dockers.end()
    registry.stop()
drill.end()
