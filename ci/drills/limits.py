"""What tasks may take, by whatever control groups and quotas the machine has: the kernel's own files say so, tasks that want more meet the limit, the
figures tell, and nothing is left. `DRILL_QUOTA` says that the agent's disk has project quotas, and that limits must be held by them."""

import glob
import json
import os
import sys
import tempfile
import time

from common import Drill, Instance, request, until
from framework import Framework
from leftovers import counts
from registry import LOGIN, Registry, busybox

drill, instance = Drill("limits"), Instance(sys.argv[1])
QUOTA = bool(os.environ.get("DRILL_QUOTA"))
MIB = 1 << 20
room = tempfile.TemporaryDirectory(prefix="plenum-drill-")
registry = Registry(f"{room.name}/registry")
registry.push("shop/tools", "1", [busybox()], {"Env": ["PATH=/bin"]})
image = {"type": "DOCKER", "docker": {"name": f"{registry.host}/shop/tools:1"}}


def start(name, command, linux=None, wait="TASK_RUNNING", **resources):
    """Launches a task of the image and waits for a state; gives the status."""
    amounts = {"cpus": 0.1, "mem": 32, **resources}

    def make(offer):
        scalars = [{"name": key, "type": "SCALAR", "scalar": {"value": value}, "allocation_info": {"role": "*"}} for key, value in amounts.items()]
        container = {"type": "MESOS", "mesos": {"image": image}, **({"linux_info": linux} if linux else {})}
        task = {"name": name, "task_id": {"value": name}, "agent_id": offer["agent_id"], "resources": scalars, "container": container,
                "command": {"value": command, "shell": True}}
        return [{"type": "LAUNCH", "launch": {"task_infos": [task]}}]

    framework.accept(make, **amounts)
    ended = ("TASK_FAILED", "TASK_FINISHED", "TASK_KILLED", "TASK_ERROR", "TASK_GONE", "TASK_LOST", "TASK_DROPPED")
    until(f"{name} {wait}", lambda: framework.states(name)[-1] == wait or framework.states(name)[-1] in ended, 60)
    return framework.last(name)


def finish(name):
    """Waits for a task's end; gives the last status."""
    until(f"the end of {name}", lambda: framework.last(name)["state"] not in ("TASK_STAGING", "TASK_STARTING", "TASK_RUNNING"), 60)
    return framework.last(name)


def kill(name):
    """Kills a task and waits; gives the seconds that it took."""
    began = time.monotonic()
    framework.call("KILL", {"task_id": {"value": name}})
    finish(name)
    return time.monotonic() - began


def agent(path):
    """Asks the agent."""
    return json.loads(request(instance.node, 5051, "GET", path, headers={"Authorization": f"token={instance.token}"}, timeout=20)[1])


def measured(name):
    """The agent's figures of a task."""
    return next(one for one in agent("/monitor/statistics") if one["executor_id"] == name)


def control(name, *files):
    """A file of the task's control groups: the first of these names that there is."""
    container = measured(name)["container_id"]
    for file in files:
        for at in [f"/sys/fs/cgroup/plenum-{instance.name}", *glob.glob(f"/sys/fs/cgroup/*/plenum-{instance.name}")]:
            if os.path.exists(f"{at}/{container}/{file}"):
                with open(f"{at}/{container}/{file}", encoding="utf-8") as found:
                    return found.read().strip()
    return None


def sandbox(name):
    """The folder of a task."""
    for group in agent("/state")["frameworks"]:
        for executor in group["executors"] + group["completed_executors"]:
            if executor["id"] == name:
                return executor["directory"]
    raise KeyError(f"{name}: {framework.last(name)}")


def inside(name, line):
    """A command in a task; gives its output."""
    return instance.plenum("task", "exec", name, "--instance", instance.name, "--", "sh", "-c", line, check=False)


instance.up()
instance.login()
credentials = f"{room.name}/config.json"
with open(credentials, "w", encoding="utf-8") as file:
    json.dump({"auths": {registry.host: {"auth": LOGIN}}}, file)
instance.settings("[agent.images.authorities]", f'[agent.images.authorities]\n"{registry.host}" = "{registry.ca}"',
                  "[agent.images]", f'[agent.images]\ndocker_config = "{credentials}"', "task_processes = 10000", "task_processes = 60",
                  "log_file_bytes = 10485760", "log_file_bytes = 65536", "log_files = 5", "log_files = 3", "allow_privileged = false", "allow_privileged = true")
framework = Framework(instance.node, instance.token)
before = counts(instance)

# In the kernel's own words.
start("still", "exec sleep 10000", cpus=0.2, mem=48)
seen = {"memory": control("still", "memory.max", "memory.limit_in_bytes"), "processes": control("still", "pids.max"),
        "quota": control("still", "cpu.max", "cpu.cfs_quota_us").split()[0],
        "swap": control("still", "memory.swap.max", "memory.memsw.limit_in_bytes")}
want = {"memory": str(48 * MIB), "processes": "60", "quota": "20000"}
drill.promise("memory, processors and processes are limited in the kernel's files", {key: seen[key] for key in want} == want, seen)
drill.promise("nothing is swapped beyond it", seen["swap"] in (None, "0", str(48 * MIB)), seen["swap"])
said = inside("still", "echo here; mount | grep -c cgroup; exit 3")
drill.promise("a command runs inside, without a view of control groups", said.split()[:2] == ["here", "0"], said.split())

# A processor.
start("busy", "while :; do :; done", cpus=0.2)
figures = lambda: (found := measured("busy"))["statistics"].get("cpus_nr_throttled", 0) > 3 and found
busy, took = until("throttled", figures, 30)
first = measured("busy")["statistics"]
time.sleep(3)
second = measured("busy")["statistics"]
used = lambda one: one["cpus_user_time_secs"] + one["cpus_system_time_secs"]
share = (used(second) - used(first)) / (second["timestamp"] - first["timestamp"])
drill.promise("a task that wants a whole processor gets its fifth", 0.02 < share < 0.3, f"{share:.3f}")
told = {key: second.get(key) for key in ("cpus_limit", "cpus_nr_periods", "cpus_nr_throttled", "cpus_throttled_time_secs")}
drill.promise("and the figures say that it waits", all(told.values()), told)
if os.path.exists("/proc/pressure/cpu"):
    stall = second.get("pressure", {}).get("cpu", {})
    drill.promise("so does the pressure on its processor", stall and stall["some"]["total_secs"] > 1, stall)
drill.promise("a task that waits is killed at once", kill("busy") < 10)

# Memory.
status = start("greedy", "exec tail /dev/zero", wait="TASK_FAILED", mem=32)
drill.promise("beyond its memory a task fails for that reason", status.get("reason") == "REASON_CONTAINER_LIMITATION_MEMORY", f"{status['state']} {status.get('reason')}: {status.get('message')}")

if os.path.exists("/proc/pressure/memory"):
    start("tight", "dd if=/dev/zero of=/tmp/file bs=1048576 count=64 2>/dev/null; while :; do cat /tmp/file >/dev/null; done", mem=32, cpus=0.3)
    stall = lambda: (found := measured("tight")["statistics"].get("pressure", {}).get("memory") or {}) and found["some"]["total_secs"] > 0 and found
    found, took = until("pressure on its memory", stall, 30)
    if control("tight", "io.stat") is not None:
        devices = lambda: measured("tight")["statistics"].get("blkio_statistics", {}).get("throttling", [])
        amount = lambda: sum(int(one.get("value", 0)) for device in devices() for one in device.get("io_service_bytes", []) if one.get("op") == "READ")
        read, took = until("reads", lambda: (total := amount()) > 64 * MIB and total, 30)
        drill.promise("what it reads from the disk again and again is counted", read, f"{read} bytes")
    drill.promise("one that has too little memory for its files is told by the pressure on it", found, f"{found} after {took:.1f} s")
    kill("tight")

# Processes.
start("bomb", "f() { f | f & wait; }; f 2>/dev/null; exec sleep 10000")
full, took = until("all processes in use", lambda: int(control("bomb", "pids.current")) >= 55, 30)
drill.promise("a fork bomb stops at its limit", full and int(control("bomb", "pids.current")) <= 60, control("bomb", "pids.current"))
drill.promise("the others go on", framework.last("still")["state"] == "TASK_RUNNING" and inside("still", "echo here").strip() == "here")
drill.promise("and it ends when it is told to", kill("bomb") < 20)

# Disk.
write = "dd if=/dev/zero of=$MESOS_SANDBOX/fits bs=65536 count=32 2>/dev/null && echo fits; dd if=/dev/zero of=/tmp/more bs=65536 count=512; echo gave $?; exec sleep 10000"
status = start("full", write, disk=8)
if QUOTA:
    said, _ = until("all written", lambda: (one := inside("full", "cat $MESOS_SANDBOX/stdout $MESOS_SANDBOX/stderr")) and "gave" in one and one, 60)
    drill.promise("a full disk is an error of the write, by the kernel's quota", said and "fits" in said and "gave 1" in said and "quota exceeded" in said.lower(), (said or "").split("\n"))
    used = sum(int(line.split()[0]) for line in inside("full", "stat -c '%b %n' $MESOS_SANDBOX/fits /tmp/more").splitlines()) * 512
    drill.promise("it has what it asked for, in the sandbox and over the image together, and no more", 7 * MIB < used <= 8 * MIB, used)
    drill.promise("the task goes on", framework.last("full")["state"] == "TASK_RUNNING", f"{framework.last('full')['state']} {framework.last('full').get('message')}")
    kill("full")
else:
    status = finish("full")
    drill.promise("beyond its disk a task fails for that reason", status.get("reason") == "REASON_CONTAINER_LIMITATION_DISK", f"{status.get('reason')}: {status.get('message')}")

# Output.
start("loud", "i=0; while [ $i -lt 8000 ]; do echo line $i of many that are written; i=$((i+1)); done; exec sleep 10000", cpus=0.5)
folder = sandbox("loud")
last, _ = until("all written", lambda: b"line 7999 " in open(f"{folder}/stdout", "rb").read(), 60)
sizes = {name: os.path.getsize(f"{folder}/{name}") for name in sorted(os.listdir(folder)) if name.startswith("stdout")}
good = list(sizes) == ["stdout", "stdout.1", "stdout.2"] and sizes["stdout.1"] == sizes["stdout.2"] == 65536 and sizes["stdout"] <= 65536
drill.promise("output is kept within its budget, and the end of it is there", last and good, sizes)
kill("loud")

# Devices.
capabilities = {"capabilities": ["MKNOD", "DAC_OVERRIDE", "CHOWN", "FOWNER"]}
line = "cd /dev; mknod other c 1 3 && echo made; echo x >other && echo wrote; mknod kmsg c 1 11 || echo refused; mknod disk b 7 0 || echo refused; exec sleep 10000"
start("maker", line, {"bounding_capabilities": capabilities, "effective_capabilities": capabilities})
said, _ = until("all tried", lambda: (one := inside("maker", "cat $MESOS_SANDBOX/stdout")).count("refused") and one, 20)
drill.promise("one that may make devices is held to the usual ones", said and said.split("\n")[:4] == ["made", "wrote", "refused", "refused"], said)
kill("maker")

kill("still")
left, _ = until("nothing left", lambda: counts(instance) == before or None, 15)
drill.promise("nothing is left of any of them", left, f"{before} and {counts(instance)}")
registry.stop()
drill.end()
