"""kill -9 at each step of a launch: every system call that changes something (files, mounts, processes, namespaces, network) is a step, and each
step has its turn at which the agent is killed, then one at which whoever does it is: supervisor, PID 1, unpacker. A status arrives, or the task
runs; nothing is left. `DRILL_STRIDE` leaves steps out, `DRILL_ONLY` names the turns to do (`one`, `first` or `pod`, `agent` or `container`), `DRILL_VERBOSE` tells each."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter

from common import Drill, Instance, request, until
from framework import Framework
from leftovers import everything, groups, processes
from liar import Liar, archive

CALLS = ("mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,fsync,fdatasync,mount,umount2,pivot_root,"
         "move_mount,open_tree,fsmount,mount_setattr,setns,unshare,execve")
# Beside those: the beginning of processes, and words to the kernel about networks. These are not slowed down: others use them, too.
MORE = "clone,clone3,vfork,fork,sendto,sendmsg"
STRIDE = int(os.environ.get("DRILL_STRIDE") or 1)
drill, instance = Drill("steps"), Instance(sys.argv[1])
room = tempfile.TemporaryDirectory(prefix="plenum-drill-")
liar = Liar()


class Watcher(threading.Thread):
    """Follows a process and all that it starts, and kills at one step: the process itself or the one whose step it is."""

    def __init__(self, pid, wanted, whom):
        super().__init__(daemon=True)
        self.pid, self.wanted, self.whom, self.seen, self.hit, self.ready, self.own = pid, wanted, whom, 0, "", threading.Event(), {}
        self.steps, self.armed = 0, False
        self.tracer = subprocess.Popen(
            ["strace", "-f", "-y", "-qq", "-s", "16", "-p", str(pid), "-e", f"trace={CALLS},{MORE}", "-e", f"inject={CALLS}:delay_exit=4000",
             "-e", "signal=none", "-o", "/dev/stdout"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def attached(self):
        """Waits until each of its threads is followed."""
        def all_traced():
            for thread in os.listdir(f"/proc/{self.pid}/task"):
                with open(f"/proc/{self.pid}/task/{thread}/status", encoding="utf-8") as file:
                    if "TracerPid:\t0\n" in file.read():
                        return False
            return True
        until("the tracer", all_traced, 10)
        # What the agent still does for the task before is no step of this launch.
        before = -1
        while before != self.steps:
            before = self.steps
            time.sleep(0.1)
        self.armed = True

    def run(self):
        for line in self.tracer.stdout:
            who, _, call = line.partition(" ")
            call = call.strip()
            if not self.counts(int(who), call):
                continue
            self.steps += 1
            self.seen += self.armed
            if self.seen == self.wanted and not self.hit:
                self.hit = f"{call[:110]}"
                try:
                    os.kill(self.pid if self.whom == "agent" else int(who), signal.SIGKILL)
                except ProcessLookupError:
                    self.hit += " (it was gone)"

    def counts(self, who, call):
        """Whether this is a step of the round."""
        if "= -1 " in call or "<unfinished" in call:
            # What did not change anything; and what takes its time is counted when it ends.
            return False
        if "send" in call[:20] and "NETLINK" not in call and "nlmsg_" not in call or "CLONE_THREAD" in call or call.startswith(("+++", "---")):
            return False
        return self.whom == "agent" or not self.of_agent(who)

    def of_agent(self, thread):
        """Whether a thread is the agent's."""
        if thread not in self.own:
            self.own[thread] = os.path.exists(f"/proc/{self.pid}/task/{thread}")
        return self.own[thread]

    def stop(self):
        """Lets all go."""
        self.tracer.terminate()
        try:
            self.tracer.wait(3)
        except subprocess.TimeoutExpired:
            self.tracer.kill()
            self.tracer.wait(10)
        self.join(10)


def one(name):
    """A task of an image that is not on the node yet, with a network of its own."""
    container = {**image(name), "network_infos": [{"name": "mesos-bridge"}]}
    return {name: ({"cpus": 0.1, "mem": 32, "disk": 16}, {"command": {"value": "sleep 1000"}, "container": container})}, None


def first(name):
    """The same on a node that has no bridge yet: nothing of the network's is there, and a new agent finds it so."""
    return one(name)


def without_bridge():
    """Takes all interfaces, rules and network namespaces of the instance away, and the agent that knows them."""
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True).stdout)
    for link in links:
        if link["ifname"] != "lo":
            subprocess.run(["ip", "link", "delete", link["ifname"]], capture_output=True, check=False)
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    # Without its folder the next agent makes networks when they are first asked for.
    folder = f"/run/plenum/{instance.name}/agent/networks"
    subprocess.run(["umount", "--lazy", f"{folder}/netns"], capture_output=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)
    before = serving()
    os.kill(before, signal.SIGKILL)
    until("the agent restarted", lambda: instance.pids()["agent"] not in (None, before), 30)


def pod(name):
    """Two containers with one network."""
    tasks = {f"{name}.{part}": ({"cpus": 0.1, "mem": 32}, {"command": {"value": "sleep 1000"}, "container": image(f"{name}.{part}")}) for part in "ab"}
    container = {"type": "MESOS", "network_infos": [{"name": "mesos-bridge"}]}
    return tasks, ({"cpus": 0.1, "mem": 32, "disk": 16}, {"executor_id": {"value": name}, "container": container})


WHAT = {one: "a container", first: "a node's first container", pod: "a pod"}
# Of a pod's many steps every third: they are those of a container, several times.
STRIDES = {one: STRIDE, first: 3 * STRIDE, pod: 3 * STRIDE}


def launch(framework, name, shape):
    """Launches; gives the ids of the tasks. An offer that was withdrawn meanwhile is no fault of the launch."""
    for turn in range(10):
        tasks, executor = shape(f"{name}.{turn}")
        framework.launch(tasks, 40, executor)
        words = lambda: any(framework.last(task) for task in tasks)
        until("a word of the task", lambda: words() or framework.watcher.hit or framework.watcher.seen, 10)
        if not all(framework.last(task).get("reason") == "REASON_INVALID_OFFERS" for task in tasks):
            return list(tasks)
    raise RuntimeError("no offer is valid")


def ended(status):
    """Whether nothing comes after it."""
    return status.get("state") in ("TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_LOST", "TASK_ERROR", "TASK_DROPPED", "TASK_GONE")


def image(name):
    """An image that is not on the node yet."""
    liar.add(name, [archive([("own", tarfile.REGTYPE, {"content": os.urandom(2000)})])])
    return {"type": "MESOS", "mesos": {"image": {"type": "DOCKER", "docker": {"name": liar.name(name)}}}}


def serving():
    """The agent's process, once it serves."""
    pid = until("the agent serving", lambda: request(instance.node, 5051, "GET", "/health")[0] == 200 and instance.pids()["agent"], 40)[0]
    return pid


def judge(framework, tasks, watcher, whom):
    """Ends what runs; gives what is wrong with the statuses."""
    wrong, over = [], lambda: all(ended(framework.last(task)) for task in tasks)
    if not over() and watcher.hit and whom != "agent":
        until("the end", over, 1)
    for task in tasks:
        last = framework.last(task)
        if not ended(last):
            framework.call("KILL", {"task_id": {"value": task}, "agent_id": last.get("agent_id")})
    if not until("the end of the task", over, 30)[0]:
        wrong.append(f"not to be killed: {[framework.states(task) for task in tasks]}")
    for task in tasks:
        last = framework.last(task)
        message = last.get("message", "")
        # A command that ended by a signal has no reason, as in Mesos.
        if len(message) < 10 or not (last.get("reason") or last.get("state") == "TASK_KILLED" or message.startswith("Command ")):
            wrong.append(f"no reason or no sentence: {last}")
    return wrong


def round_of(framework, step, shape, whom, start):
    """One launch with one kill; gives what is wrong, the watcher, and what came of it."""
    if shape is first:
        without_bridge()
    watcher = framework.watcher = Watcher(serving(), step, whom)
    watcher.start()
    watcher.attached()
    wrong, known = [], lambda task: framework.last(task).get("state") == "TASK_RUNNING" or ended(framework.last(task))
    try:
        tasks = launch(framework, f"{shape.__name__}-{whom}-{step}", shape)
        if until("a status", lambda: all(known(task) for task in tasks), 60)[0]:
            # What comes right after the first status is a step, too.
            until("the kill", lambda: watcher.hit or all(ended(framework.last(task)) for task in tasks), 0.3)
        else:
            wrong.append("no status")
    finally:
        watcher.stop()
    serving()
    wrong += judge(framework, tasks, watcher, whom)
    if not until("nothing left", lambda: everything(instance) == start, 15)[0]:
        wrong.append(f"left: {everything(instance)} {groups(instance)[:3]} {processes(instance)[:3]}")
    return wrong, watcher, framework.last(tasks[0])


def matrix(framework, shape, whom, start):
    """Each step in turn, until a launch is through before its step comes."""
    step, number, broken, ends, what = 1, 0, 0, Counter(), f"{whom} killed at each step of a launch of {WHAT[shape]}"
    began = time.monotonic()
    while step < 2000:
        number += 1
        wrong, watcher, status = round_of(framework, step, shape, whom, start)
        message = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{64}", "…", status.get("message", ""))[:140]
        ends[status.get("state"), status.get("reason"), re.sub(r"\d+|\(.*?\)", "", message)[:70]] += 1
        if wrong:
            broken += 1
            drill.promise(f"{whom} killed at step {step}, {watcher.hit}", False, f"{status.get('state')} {status.get('reason')} {message}: {wrong}")
        elif os.environ.get("DRILL_VERBOSE"):
            print(f"       {step} {watcher.hit}: {status.get('state')} {status.get('reason')} {message}", flush=True)
        if not watcher.hit:
            break
        step += STRIDES[shape]
    for (state, reason, message), count in sorted(ends.items(), key=lambda entry: -entry[1]):
        print(f"       {count} times {state} {reason} {message}", flush=True)
    drill.promise(f"{what}: a status each time, and nothing left", not broken and step > 30,
                  f"{number} launches in {time.monotonic() - began:.0f} s, {step} steps")


def configure():
    """The registry speaks plain HTTP."""
    instance.settings("insecure = []", f'insecure = ["{liar.host}"]')


def main():
    """The drill itself."""
    instance.up()
    instance.login()
    configure()
    framework = Framework(instance.node, instance.token)
    # Once without a kill: what stays for the next, such as the bridge, is not left behind.
    wrong, watcher, status = round_of(framework, -1, one, "agent", everything(instance))
    print(f"       the first launch has {watcher.seen} steps: {status.get('state')} {wrong}", flush=True)
    start = everything(instance)
    for shape in WHAT:
        for whom in ("agent", "container"):
            # What a node's first container has besides are the agent's steps.
            if (shape, whom) != (first, "container") and all(only in f"{shape.__name__} {whom}" for only in os.environ.get("DRILL_ONLY", "").split()):
                matrix(framework, shape, whom, start)
    roles = {role["role"]: role["restarts"] for role in instance.status()["roles"] if role["role"] != "agent"}
    drill.promise("no other component ended", not any(roles.values()), roles)


try:
    main()
finally:
    liar.stop()
drill.end()
