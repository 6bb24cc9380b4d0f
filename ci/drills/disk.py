"""The filesystem of the state is filled to the last byte and freed again: writes are refused with a clear error, reads go on, tasks keep
their processes, no component ends by itself, nothing acknowledged is lost, not even when each is killed on the full disk, and everything
recovers by itself within 5 s of the room coming back."""

import errno
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

from common import Asker, Drill, Instance, request, until

SIZE = "96m"
MARK = "drill-disk-task"

drill, instance = Drill("disk"), Instance(sys.argv[1])
room = tempfile.mkdtemp(prefix="plenum-disk-")
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "plenum-disk", room], check=True)
os.environ["PLENUM_STATE_BASE"] = room
acknowledged = {"apps": set(), "users": set(), "frameworks": set()}
filler = f"{room}/filler"


def leave():
    """The instance first: what it runs holds the filesystem."""
    if os.path.exists(filler):
        os.unlink(filler)
    instance.plenum("down", "--instance", instance.name, "--purge", check=False)
    subprocess.run(["umount", "--lazy", room], check=False)
    os.rmdir(room)


def fill():
    """Takes every block, then every byte that appends to files of others may have freed meanwhile."""
    with open(filler, "ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def free_bytes():
    found = os.statvfs(room)
    return found.f_bavail * found.f_frsize


def token():
    status, answer = request(instance.node, 8101, "POST", "/acs/api/v1/auth/login", {"uid": "admin", "password": instance.password})
    return json.loads(answer)["token"] if status == 200 else None


def call(port, method, path, body=None, timeout=40):
    status, answer = request(instance.node, port, method, path, body, {"Authorization": f"token={instance.token}"}, timeout)
    try:
        return status, json.loads(answer)
    except ValueError:
        return status, answer.decode(errors="replace")


def make_app(name, command="sleep 100000"):
    body = {"id": f"/{name}", "cmd": f": {MARK}; {command}", "cpus": 0.01, "mem": 16, "instances": 1}
    status, answer = call(8080, "POST", "/v2/apps", body)
    if status == 201:
        acknowledged["apps"].add(f"/{name}")
    return status, answer


def make_user(name):
    status, answer = call(8101, "PUT", f"/acs/api/v1/users/{name}", {"password": "a-long-drill-pass1", "description": "drill"})
    if status in (200, 201):
        acknowledged["users"].add(name)
    return status, answer


def install():
    """A package: what the scheduler refuses, the catalog has to pass on."""
    kind = "application/vnd.dcos.package.install-{};charset=utf-8;version=v1"
    headers = {"Authorization": f"token={instance.token}", "Content-Type": kind.format("request+json"), "Accept": kind.format("response+json")}
    status, answer = request(instance.node, 7070, "POST", "/package/install", json.dumps({"packageName": "hello"}), headers, 40)
    return status, answer.decode(errors="replace")


def subscribe(number):
    """A framework that the master has to write down. What it hears first says whether it was: a refusal is an event of the stream, as in Mesos."""
    info = {"user": "root", "name": f"{number}" + "x" * 20_000, "failover_timeout": 600.0}
    body = json.dumps({"type": "SUBSCRIBE", "subscribe": {"framework_info": info}})
    connection = http.client.HTTPConnection(instance.node, 5050, timeout=20)
    try:
        headers = {"Authorization": f"token={instance.token}", "Content-Type": "application/json"}
        connection.request("POST", "/api/v1/scheduler", body, headers)
        answer = connection.getresponse()
        if answer.status != 200:
            return answer.status, answer.read().decode(errors="replace")
        event = json.loads(answer.read(int(answer.readline())))
        if event["type"] == "ERROR":
            return 503, event["error"]["message"]
        acknowledged["frameworks"].add(event["subscribed"]["framework_id"]["value"])
        return 200, ""
    finally:
        connection.close()


def apps():
    return {app["id"] for app in call(8080, "GET", "/v2/apps")[1]["apps"]}


def users():
    return {user["uid"] for user in call(8101, "GET", "/acs/api/v1/users")[1]["array"]}


def frameworks():
    return {framework["id"] for framework in call(5050, "GET", "/frameworks")[1]["frameworks"]}


def running(app):
    return call(8080, "GET", f"/v2/apps//{app}")[1]["app"]["tasksRunning"] == 1


def pids():
    """The processes of the tasks of this drill, by the id of their task."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environment = dict(one.split(b"=", 1) for one in file.read().split(b"\0") if b"=" in one)
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                command = file.read()
            if MARK.encode() in command and environment.get(b"MESOS_SANDBOX", b"").startswith(room.encode()):
                found.setdefault(environment[b"MESOS_TASK_ID"].decode(), set()).add(int(pid))
        except (OSError, KeyError):
            continue
    return found


def has_reason(answer):
    text = json.dumps(answer).lower()
    return "full" in text or "no space" in text


def refused(what, make, longest=30):
    began = time.monotonic()
    status, answer = make()
    took = time.monotonic() - began
    good = status in (502, 503, 507) and has_reason(answer) and took <= longest
    drill.promise(f"{what} is refused, and the answer says why", good, f"{status} after {took:.2f} s {json.dumps(answer)[:200]}")


def reads(when):
    """Every read that a person would try while something is wrong."""
    seen = {
        "apps": call(8080, "GET", "/v2/apps")[0], "one app": call(8080, "GET", "/v2/apps/one")[0], "queue": call(8080, "GET", "/v2/queue")[0],
        "users": call(8101, "GET", "/acs/api/v1/users")[0], "master": call(5050, "GET", "/state")[0], "agent": call(5051, "GET", "/state")[0],
        "packages": call(7070, "GET", "/capabilities")[0], "login": 200 if token() else "refused",
    }
    drill.promise(f"reads go on {when}", all(status == 200 for status in seen.values()), seen)


def ready():
    return all(role["condition"] == "running" for role in instance.status()["roles"])


def stands(when):
    found = {"apps": apps(), "users": users(), "frameworks": frameworks()}
    lost = {what: sorted(acknowledged[what] - found[what]) for what in found if acknowledged[what] - found[what]}
    told = ", ".join(f"{len(found[what])} {what}" for what in found)
    drill.promise(f"nothing acknowledged is lost {when}", not lost, f"{told}; lost {lost or 'none'}")


def works(name):
    """A whole way through all components: an app that comes to run, and a user."""
    def made():
        return make_app(name)[0] in (201, 409) and make_user(f"user-{name}")[0] in (200, 201, 409)
    return until(f"writes are taken ({name})", made, 30)[0] and until(f"{name} runs", lambda: running(name), 30)[0]


def recovers(when, name):
    began = time.monotonic()
    ok = works(name) and until("all components run", ready, 20)[0]
    took = time.monotonic() - began
    drill.promise(f"everything recovers by itself {when} within 5 s", ok and took <= 5, f"{took:.2f} s")


def kill_all(when):
    """Each component is killed once; none may need more than the supervisor to come back."""
    for role in instance.pids():
        before = instance.pids()[role]
        os.kill(before, signal.SIGKILL)
        took = until(f"{role} is back", lambda: instance.pids().get(role) not in (None, before) and ready(), 15)[1]
        drill.promise(f"{role} killed {when} is back within 5 s", took <= 5, f"{took:.2f} s")


def restarts():
    return {role["role"]: role["restarts"] for role in instance.status()["roles"]}


def run():
    instance.up()
    instance.token = token()
    works("one")
    works("two")
    time.sleep(1)  # a shell that is about to become another program looks like two
    before, roles = pids(), instance.pids()
    drill.promise("two tasks run", len(before) == 2, sorted(before))
    reading = Asker(lambda: call(8080, "GET", "/v2/apps", timeout=5)[0] == 200 or sys.exit("no read"), pause=0.05)
    fill()
    drill.promise("the filesystem is full", free_bytes() == 0, f"{free_bytes()} bytes free of {SIZE}")
    reading.start()
    # What fits into files that are there is taken, and is owed from then on; the rest is refused.
    for make in (lambda n: make_app(f"fills-{n}"), lambda n: make_user(f"fills-{n}"), subscribe):
        for number in range(200):
            if make(number)[0] not in (200, 201):
                break
    fill()
    refused("a new app", lambda: make_app("refused"))
    refused("a new user", lambda: make_user("refused"))
    for number in range(3):
        refused(f"new app {number}", lambda: make_app(f"refused-{number}"), 3)
    refused("a new framework", lambda: subscribe("last"))
    refused("a package", install)
    reads("on the full disk")
    time.sleep(2)
    drill.promise("the tasks keep their processes", {task: pids().get(task) for task in before} == before, sorted(pids()))
    drill.promise("no component has ended by itself", instance.pids() == roles, instance.pids())
    drill.promise("no read failed", not reading.stop().failures, f"{reading.asked} asked, {reading.failures[:1] or ''}")
    stands("while the disk is full")
    victim, processes = sorted(pids().items())[0]
    for pid in processes:
        os.kill(pid, signal.SIGKILL)
    before.pop(victim)
    time.sleep(3)
    os.unlink(filler)
    recovers("after the disk was freed", "three")
    healed = until("a task that died on the full disk is replaced", lambda: running("one") and running("two") and victim not in pids(), 15)
    drill.promise("a task that died meanwhile is replaced", healed[0], f"{healed[1]:.2f} s later")
    refused_there = {app for app in apps() if "refused" in app} | {user for user in users() if "refused" in user}
    drill.promise("what was refused did not happen", not refused_there, refused_there or "")
    stands("after the disk was freed")
    drill.promise("still no component has ended by itself", instance.pids() == roles, instance.pids())

    fill()
    counted = restarts()
    kill_all("on the full disk")
    counted = {role: count - counted[role] for role, count in restarts().items()}
    drill.promise("none restarts in a loop", all(count == 1 for count in counted.values()), counted)
    reads("after restarts on the full disk")
    stands("after restarts on the full disk")
    drill.promise("the tasks still keep their processes", {task: pids().get(task) for task in before} == before, sorted(pids()))
    os.unlink(filler)
    recovers("after restarts on the full disk", "four")
    kill_all("with room again")
    until("all serve", lambda: apps() and users(), 10)
    stands("after all of it")
    drill.promise("the tasks kept their processes to the end", {task: pids().get(task) for task in before} == before, sorted(pids()))


try:
    run()
finally:
    leave()
drill.end()
