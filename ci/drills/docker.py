"""Apps of the type DOCKER on a Docker engine of the drill's own: pulled with a password, mapped ports, options of `docker run`, output in the
sandbox; the engine is killed and the agent too; what is not allowed is refused."""

import io
import json
import os
import shutil
import signal
import sys
import tarfile
import tempfile

from common import Drill, Instance, ok, request, until
from dockers import Engine, trust
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
