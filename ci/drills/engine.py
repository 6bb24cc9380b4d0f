"""A Docker engine that hangs or is killed, and an agent that is killed, while the agent has it start containers: each launch ends in a status with
a reason and a sentence, or the task runs; the engine's containers, interfaces and files are as before. `DRILL_SEED` repeats a run,
`DRILL_ROUNDS` is how often engine and agent are killed."""

import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter

from common import Drill, Instance, request, until
from dockers import Engine
from framework import Framework
from leftovers import everything
from liar import Liar, archive

SEED = int(os.environ.get("DRILL_SEED") or random.SystemRandom().randrange(1 << 32))
ROUNDS = int(os.environ.get("DRILL_ROUNDS") or 20)
drill, instance, rng = Drill("engine"), Instance(sys.argv[1]), random.Random(SEED)
room = tempfile.TemporaryDirectory(prefix="plenum-drill-", ignore_cleanup_errors=True)
liar, engine = Liar(), Engine(room.name)
TERMINAL = ("TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_LOST", "TASK_ERROR", "TASK_DROPPED", "TASK_GONE")


def task(name):
    """A task of an image that the engine does not have yet."""
    liar.add(name, [archive([("own", tarfile.REGTYPE, {"content": os.urandom(2000)})])])
    docker = {"image": liar.name(name), "network": "BRIDGE"}
    return {"cpus": 0.1, "mem": 32}, {"command": {"value": "sleep 1000"}, "container": {"type": "DOCKER", "docker": docker}}


def orphans():
    """Interfaces that an engine forgot which was killed between making one and writing it down. They are its own: nobody else knows whose they were."""
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True).stdout)
    return len([link for link in links if link["ifname"].startswith("veth")])


def counted():
    """What the engine and the agent have."""
    return {**everything(instance), "containers": len(engine.docker("ps", "-aq").split()),
            "records": sum(len(names) for _, names, _ in os.walk(f"{instance.state}/agent/docker"))}


def state():
    """What the node says of its engine."""
    return json.loads(request(instance.node, 5051, "GET", "/state", headers={"Authorization": f"token={instance.token}"})[1])["docker_engine"]


def serving():
    """Waits for the agent."""
    until("the agent serving", lambda: request(instance.node, 5051, "GET", "/health")[0] == 200, 40)


def finish(framework, name, start):
    """Waits for a word, ends what runs; gives what is wrong and the first word."""
    wrong, last = [], lambda: framework.last(name)
    if not until("a status", lambda: last().get("state") in ("TASK_RUNNING", *TERMINAL), 90)[0]:
        wrong.append("no status")
    first = dict(last())
    if first.get("state") not in TERMINAL:
        framework.call("KILL", {"task_id": {"value": name}, "agent_id": first.get("agent_id")})
        if not until("the end", lambda: last().get("state") in TERMINAL, 60)[0]:
            wrong.append("not to be killed")
    if first.get("state") in TERMINAL and not (first.get("reason") and len(first.get("message", "")) > 10):
        wrong.append("no reason or no sentence")
    if not until("nothing left", lambda: counted() == start, 60)[0]:
        wrong.append(f"left: {counted()}")
    return wrong, first


def rounds(framework, whom, start):
    """Kills at random moments of launches."""
    broken, ends, began = 0, Counter(), time.monotonic()
    for number in range(ROUNDS):
        name = f"{whom}-{number}"
        pause = rng.uniform(0, 0.7)
        framework.launch({name: task(name)}, 40)
        time.sleep(pause)
        if whom == "engine":
            engine.kill()
            time.sleep(rng.uniform(0, 0.5))
            engine.start()
        else:
            os.kill(instance.pids()["agent"], signal.SIGKILL)
            time.sleep(0.1)
            serving()
        wrong, first = finish(framework, name, start)
        said = f"{first.get('state')} {first.get('reason')}: {first.get('message', '')}"
        ends[f"{first.get('state')} {first.get('reason')}"] += 1
        if wrong or os.environ.get("DRILL_VERBOSE"):
            broken += bool(wrong)
            print(f"       {'BROKEN ' if wrong else ''}{whom} killed {pause * 1000:.0f} ms after the launch: {said[:200]} {wrong or ''}", flush=True)
    drill.promise(f"{whom} killed during {ROUNDS} launches: a status each time, and nothing left", not broken,
                  f"{dict(ends)} in {time.monotonic() - began:.0f} s")


def hangs(framework, start):
    """An engine that takes calls and answers none."""
    os.kill(engine.process.pid, signal.SIGSTOP)
    began = time.monotonic()
    framework.launch({"hang": task("hang")}, 40)
    until("a status", lambda: framework.last("hang").get("state") in TERMINAL, 90)
    said, took = framework.last("hang"), time.monotonic() - began
    good = said.get("state") == "TASK_FAILED" and said.get("reason") == "REASON_CONTAINER_LAUNCH_FAILED" and "engine" in said.get("message", "").lower()
    drill.promise("a launch with an engine that hangs ends", good, f"{said.get('state')} {said.get('reason')} after {took:.1f} s: {said.get('message')}")
    drill.promise("the node says that its engine is degraded", until("degraded", lambda: state()["state"] == "degraded", 30)[0], state())
    os.kill(engine.process.pid, signal.SIGCONT)
    drill.promise("and that it is back", until("ready", lambda: state()["state"] == "ready", 30)[0])
    drill.promise("nothing is left of it", until("nothing left", lambda: counted() == start, 60)[0], counted())


def main():
    """The drill itself."""
    print(f"       seed {SEED}", flush=True)
    engine.containerd()
    engine.start()
    instance.up()
    instance.login()
    instance.settings('socket = "/var/run/docker.sock"', f'socket = "{engine.socket}"')
    framework = Framework(instance.node, instance.token)
    until("the engine ready", lambda: state()["state"] == "ready", 30)
    framework.launch({"first": task("first")})
    until("a task", lambda: framework.last("first").get("state") in ("TASK_RUNNING", *TERMINAL), 60)
    drill.promise("a task runs on the engine", framework.last("first").get("state") == "TASK_RUNNING", framework.last("first").get("message", ""))
    framework.call("KILL", {"task_id": {"value": "first"}, "agent_id": framework.last("first")["agent_id"]})
    until("its end", lambda: framework.last("first").get("state") in TERMINAL, 60)
    until("no container", lambda: not engine.docker("ps", "-aq"), 20)
    start = counted()
    hangs(framework, start)
    for whom in ("engine", "agent"):
        rounds(framework, whom, start)


try:
    main()
finally:
    engine.end()
    liar.stop()
print(f"       the killed engine forgot {orphans()} interfaces of its own")
drill.end()
