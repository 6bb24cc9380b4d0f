"""kill -9 at each step of a deployment: every write to disk and every word to others of the scheduler, the master or the agent is a step, at which it is killed, alone
and together with others. The deployment goes on by itself, its capacity limits hold, nothing is started twice for one intent. `DRILL_ROUNDS` is the number of steps
that are tried of each (8), `DRILL_STRIDE` how far apart they are, `DRILL_ONLY` names the turns to do (`services+agent`)."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter

from common import Drill, Instance, request, until

ROUNDS = int(os.environ.get("DRILL_ROUNDS") or 8)
STRIDE = int(os.environ.get("DRILL_STRIDE") or 0)
# What is written to disk, and what is said to others.
CALLS = "fsync,fdatasync,write,writev,sendto,sendmsg"
INSTANCES, MOST = 4, 5
MARATHON = "/service/marathon/v2"
drill, instance = Drill("deployments"), Instance(sys.argv[1])
room = tempfile.TemporaryDirectory(prefix="plenum-drill-")
os.chmod(room.name, 0o777)
STARTS = f"{room.name}/starts"
# Others may run the same on this machine.
MARK = f"{os.getpid()}000".encode()


class Watcher(threading.Thread):
    """Follows a process and does something at one of its steps."""

    def __init__(self, pid, wanted, act):
        super().__init__(daemon=True)
        self.pid, self.wanted, self.act, self.seen, self.hit, self.armed = pid, wanted, act, 0, "", False
        self.tracer = subprocess.Popen(["strace", "-f", "-y", "-qq", "-s", "0", "-p", str(pid), "-e", f"trace={CALLS}", "-e", "signal=none", "-o", "/dev/stdout"],
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.start()
        until("the tracer", self.attached, 10)
        self.armed = True

    def attached(self):
        """Whether each of its threads is followed."""
        for thread in os.listdir(f"/proc/{self.pid}/task"):
            with open(f"/proc/{self.pid}/task/{thread}/status", encoding="utf-8") as file:
                if "TracerPid:\t0\n" in file.read():
                    return False
        return True

    def run(self):
        for line in self.tracer.stdout:
            call = line.partition(" ")[2].strip()
            counts = call.startswith("f") or "<TCP" in call[:60] or "<socket:" in call[:60]
            self.seen += self.armed and counts and "= -1 " not in call and "<unfinished" not in call
            if self.seen == self.wanted and not self.hit:
                self.hit = call[:70]
                self.act()

    def stop(self):
        """Lets it go."""
        self.tracer.terminate()
        try:
            self.tracer.wait(3)
        except subprocess.TimeoutExpired:
            self.tracer.kill()
            self.tracer.wait(10)
        self.join(10)


class Sampler(threading.Thread):
    """Counts the app's processes without pause."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most, self.running = 0, True
        self.start()

    def run(self):
        while self.running:
            count = sum(processes().values())
            # A process that ends while others are counted is not seen, so nothing is said of the fewest.
            self.most = max(self.most, count)
            time.sleep(0.02)

    def stop(self):
        """Gives the most there were."""
        self.running = False
        self.join(10)
        return self.most


def processes():
    """How many run of each version."""
    found = Counter()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if words[0] == b"sleep" and len(words) > 1 and words[1].startswith(MARK):
            found[int(words[1][len(MARK):])] += 1
    return found


def body(version):
    """A version of the app: what is started writes down that it was."""
    return {"id": "/roll", "cmd": f"echo {version} $MESOS_TASK_ID >>{STARTS}; exec sleep {MARK.decode()}{version}", "instances": INSTANCES, "cpus": 0.01, "mem": 16,
            "user": "root", "backoffSeconds": 1, "upgradeStrategy": {"minimumHealthCapacity": 1, "maximumOverCapacity": 0.25}}


def starts(version):
    """The tasks of a version that were started, one entry for each start."""
    if not os.path.exists(STARTS):
        return []
    with open(STARTS, encoding="utf-8") as file:
        return [task for number, task in (line.split() for line in file) if number == str(version)]


def settled(version):
    """Exactly what is wanted runs, and nothing deploys."""
    app = instance.api("GET", f"{MARATHON}/apps/roll")[1]["app"]
    return app["tasksRunning"] == INSTANCES and app["tasksStaged"] == 0 and not app["deployments"] and processes() == Counter({version: INSTANCES})


def deploy(version, key):
    """Asks until there is an answer, each time the same."""
    def asked():
        headers = {"Authorization": f"token={instance.token}", "Idempotency-Key": key}
        status, _ = request(instance.node, 443, "PUT", f"{MARATHON}/apps/roll?force=true", body(version), headers, timeout=3)
        return status in (200, 201)
    return until(f"an answer to version {version}", asked, 40)[0]


def kill(roles):
    """The deed: of `everything` the supervisor goes first, so that nobody brings the others back."""
    pids = instance.status()
    by_role = {role["role"]: role.get("pid") for role in pids["roles"]}
    victims = [pids["pid"], *by_role.values()] if roles == ("everything",) else [by_role[role] for role in roles]
    for pid in filter(None, victims):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def serving():
    """All components run and answer."""
    ready = lambda: all(role["condition"] == "running" for role in instance.status()["roles"])
    until("all components", ready, 40)
    until("the scheduler", lambda: instance.api("GET", f"{MARATHON}/info")[1].get("frameworkId"), 40)
    until("the agent", lambda: request(instance.node, 5051, "GET", "/health")[0] == 200, 40)


def round_of(version, watched, roles, step):
    """One deployment with one kill. Gives what is wrong, and whether there was a kill."""
    watcher = Watcher(instance.pids()[watched], step, lambda: kill(roles))
    counter, key, wrong = Sampler(), uuid.uuid4().hex, []
    try:
        # The deployment is asked for beside: the answer may have to wait until somebody is back.
        asking = threading.Thread(target=deploy, args=(version, key), daemon=True)
        asking.start()
        until("the kill", lambda: watcher.hit or settled(version), 30)
    finally:
        watcher.stop()
    if watcher.hit and roles == ("everything",):
        instance.up()
    asking.join(60)
    if not until(f"version {version} at step {step}", lambda: settled(version), 60)[0]:
        wrong.append(f"not as wanted: {processes()} {instance.plenum('app', 'why', '/roll', '--instance', instance.name, check=False).strip()}")
    most = counter.stop()
    if most > MOST:
        wrong.append(f"{most} at a time")
    begun = Counter(starts(version))
    twice = [task for task, count in begun.items() if count > 1]
    if twice:
        wrong.append(f"started twice: {twice}")
    # Nobody who was killed here takes a task along: so there is no reason to start more than are wanted.
    if len(begun) != INSTANCES:
        wrong.append(f"{len(begun)} instances were started for one intent")
    serving()
    return wrong, watcher


def matrix(version, watched, roles):
    """Steps in turn, until a deployment is through before its step comes. Gives the next version."""
    # How many there are; right after the last kill there is more to do than a deployment.
    (first, one), (second, other) = [round_of(version + n, watched, roles, -1) for n in (0, 1)]
    version += 1
    steps, tried, broken, began = min(one.seen, other.seen), 0, len(first) + len(second), time.monotonic()
    stride = STRIDE or max(1, steps // ROUNDS)
    for step in range(1 + (stride // 2 if not STRIDE else 0), steps + 1, stride):
        version += 1
        wrong, watcher = round_of(version, watched, roles, step)
        tried += bool(watcher.hit)
        if wrong:
            broken += 1
            drill.promise(f"{'+'.join(roles)} killed at step {step} of {watched}, {watcher.hit}", False, wrong)
    what = f"{' and '.join(roles)} killed at steps of {watched}"
    drill.promise(f"{what}: each deployment ends as wanted, nothing is started twice", not broken and tried >= min(ROUNDS, steps) // 2,
                  f"{tried} kills over {steps} steps in {time.monotonic() - began:.0f} s")
    return version + 1


instance.up()
instance.login()
deploy(1, uuid.uuid4().hex)
until("the first version", lambda: settled(1), 30)
number = 2
for watched, roles in [("services", ("services",)), ("master", ("master",)), ("agent", ("agent",)), ("services", ("services", "master")),
                       ("services", ("services", "agent")), ("services", ("everything",))]:
    if os.environ.get("DRILL_ONLY", "+".join(roles)) == "+".join(roles):
        number = matrix(number, watched, roles)
drill.end()
