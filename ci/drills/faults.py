"""Bad input and faults through the whole product: images that want out, registries that lie, tasks that take what is not theirs. Each ends in
a status with Mesos' reason and a sentence that helps, within its time; files outside are as before, and nothing is left. One line a fault."""

import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile

from common import Drill, Instance, request, until
from framework import Framework
from leftovers import everything, processes
from liar import Liar, archive, claims, crawls, elsewhere, fails, huge, noise, send, stalls, zeros

drill, instance = Drill("faults"), Instance(sys.argv[1])
room = tempfile.TemporaryDirectory(prefix="plenum-drill-")
liar = Liar()
FILE, LINK, HARD, CHAR, BLOCK = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE
# What hostile input aims at: it is there before, and the same afterwards.
precious = f"{room.name}/precious"
aims = [f"/etc/{instance.name}-evil", f"/tmp/{instance.name}-evil", f"/{instance.name}-evil"]
faults = {}


class Fault:
    """A task, and what has to come of it."""

    def __init__(self, name, state, reason, words, longest=30, mem=32, disk=None, image=None, command="true", uris=(), then=None, **more):
        self.name, self.state, self.reason, self.words, self.longest, self.then = name, state, reason, words, longest, then
        self.resources = {"cpus": 0.02, "mem": mem, **({"disk": disk} if disk else {})}
        self.info = {"command": {"value": command, "shell": True, "uris": [{"value": uri} for uri in uris]}, **more}
        if image:
            self.info["container"] = {"type": "MESOS", "mesos": {"image": {"type": "DOCKER", "docker": {"name": image}}}}
        self.id, self.meddled = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"), False
        faults[name] = self


LAUNCH = "REASON_CONTAINER_LAUNCH_FAILED"


def images():
    """Hostile images and registries."""
    evil = os.path.basename(aims[0])
    refused = {
        "path upwards": ([(f"../../../../../../../etc/{evil}", FILE, {"content": b"x"})], "leads upwards"),
        "hard link out": ([("shadow", HARD, {"to": "/etc/shadow"})], "does not have"),
        "hard link upwards": ([("shadow", HARD, {"to": "../../../../../../../etc/shadow"})], "leads upwards"),
        "through a symlink": ([("a", LINK, {"to": "/etc"}), (f"a/{evil}", FILE, {"content": b"x"})], "symbolic link"),
        "through a symlink upwards": ([("a", LINK, {"to": "../../../../../../tmp"}), (f"a/{evil}", FILE, {})], "symbolic link"),
        "symlink for /proc": ([("proc", LINK, {"to": "/tmp"})], ""),
    }
    for name, (entries, words) in refused.items():
        key = re.sub(r"\W+", "-", name).strip("-")
        liar.add(key, [archive(entries)])
        Fault(f"image: {name}", "TASK_FAILED", LAUNCH, words, image=liar.name(key))
    liar.add("absolute", [archive([(f"/etc/{evil}", FILE, {"content": b"x"})])])
    Fault("image: absolute path", "TASK_FINISHED", None, "", image=liar.name("absolute"), command=f"test -e /etc/{evil}")
    liar.add("devices", [archive([("disk", BLOCK, {"device": (254, 0), "mode": 0o666}), ("kmem", CHAR, {"device": (1, 1), "mode": 0o666})])])
    Fault("image: device nodes", "TASK_FINISHED", None, "", image=liar.name("devices"), command="test ! -e /disk && test ! -e /kmem")
    with open("/bin/busybox", "rb") as file:
        program = file.read()
    liar.add("setuid", [archive([("suid/busybox", FILE, {"content": program, "mode": 0o4755})])], {"User": "1234"})
    Fault("image: setuid bit", "TASK_FINISHED", None, "", image=liar.name("setuid"), command='test "$(/suid/busybox id -u)" = 1234')
    liar.add("bomb", [zeros(96 << 20)])
    Fault("image: tar bomb", "TASK_FAILED", LAUNCH, "unpacks to more than", image=liar.name("bomb"))

    # Each its own: what is on the node already is not asked for again.
    fresh = lambda: archive([("file", FILE, {"content": os.urandom(200_000)})])
    wrong = liar.add("wrong-layer", [fresh()])["layers"][1]["digest"]
    liar.fault("wrong-layer", wrong, lambda handler, content: send(handler, bytes([content[0] ^ 1]) + content[1:]))
    Fault("registry: wrong digest of a layer", "TASK_FAILED", LAUNCH, "should have", image=liar.name("wrong-layer"))
    wrong = liar.add("wrong-config", [fresh()])["config"]["digest"]
    liar.fault("wrong-config", wrong, lambda handler, content: send(handler, content.replace(b"linux", b"Linux")))
    Fault("registry: wrong digest of the configuration", "TASK_FAILED", LAUNCH, "should have", image=liar.name("wrong-config"))
    liar.add("wrong-manifest", [fresh()])
    pinned = f"{liar.host}/bad/wrong-manifest@sha256:{'0' * 64}"
    Fault("registry: wrong digest of the manifest", "TASK_FAILED", LAUNCH, "should have", image=pinned)

    protocol = {
        "manifest of 100 MB": (huge(100, True), "more than the"),
        "manifest without end": (huge(100, False), "more than the"),
        "answers 500": (fails(500), "500"),
        "claims more than comes": (claims(100), "cannot be used"),
        "manifest of rubbish": (lambda handler, _: send(handler, b"<html>no</html>"), "not usable"),
        "stalls": (stalls(liar, 20), "sent nothing for"),
        "redirects in a circle": (elsewhere, "redirect"),
    }
    for name, (fault, words) in protocol.items():
        key = re.sub(r"\W+", "-", name.lower())
        liar.add(key, [fresh()])
        liar.fault(key, "manifests", fault)
        Fault(f"registry: {name}", "TASK_FAILED", LAUNCH, words, image=liar.name(key), longest=45)
    for name, fault, words in (("layer stalls", stalls(liar, 1000), "sent nothing for"), ("layer is cut", claims(1000), ""),
                               ("layer crawls", crawls(liar, 0.5), "")):
        key = name.replace(" ", "-")
        own = fresh()
        if "cut" in name:
            # The manifest says the length that the server claims.
            manifest = liar.add(key, [own], change=lambda manifest: manifest["layers"][1].update(size=len(own[1]) + 1000))
        else:
            manifest = liar.add(key, [own])
        liar.fault(key, manifest["layers"][1]["digest"], fault)
        Fault(f"registry: {name}", "TASK_FAILED", LAUNCH, words, image=liar.name(key), longest=45)
    Fault("registry: nobody there", "TASK_FAILED", LAUNCH, "127.0.0.1:9", image="127.0.0.1:9/bad/none:1", longest=45)


def fetches():
    """Hostile files of URIs."""
    def packed(name, entries):
        with open(f"{room.name}/{name}", "wb") as file:
            file.write(archive(entries)[1])
        return f"file://{room.name}/{name}"

    Fault("fetch: path upwards", "TASK_FAILED", LAUNCH, "evil", uris=[packed("up.tar.gz", [("../../../../../../../.." + aims[1], FILE, {})])])
    Fault("fetch: through a symlink", "TASK_FAILED", LAUNCH, "",
          uris=[packed("link.tar.gz", [("a", LINK, {"to": "/tmp"}), ("a/" + os.path.basename(aims[1]), FILE, {})])])
    with zipfile.ZipFile(f"{room.name}/up.zip", "w") as file:
        file.writestr("../../../../../../../.." + aims[1], b"x")
    Fault("fetch: zip upwards", "TASK_FAILED", LAUNCH, "evil", uris=[f"file://{room.name}/up.zip"])
    with zipfile.ZipFile(f"{room.name}/bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for number in range(64):
            file.writestr(f"zeros{number}", b"\0" * (16 << 20))
    Fault("fetch: zip bomb", "TASK_FAILED", "REASON_CONTAINER_LIMITATION_DISK|REASON_CONTAINER_LAUNCH_FAILED", "", disk=32,
          uris=[f"file://{room.name}/bomb.zip"], command="sleep 1000", longest=60)
    Fault("fetch: nothing there", "TASK_FAILED", LAUNCH, "404", uris=[f"http://{liar.host}/v2/bad/none/blobs/none"])


def tasks():
    """Tasks that misbehave, with the machine's root and with an image."""
    liar.add("tools", [])
    for where, image in (("machine", None), ("image", liar.name("tools"))):
        def fault(name, *arguments, **more):
            Fault(f"task ({where}): {name}", *arguments, image=image, **more)
        shm = f"/dev/shm/{instance.name}-evil"
        fault("fork bomb", "TASK_FAILED", None, "processes", command="f() { f | f & wait; }; f; exit 3", longest=60)
        fault("memory", "TASK_FAILED", "REASON_CONTAINER_LIMITATION_MEMORY", "Memory limit exceeded", command="exec tail /dev/zero")
        fault("disk", "TASK_FAILED", "REASON_CONTAINER_LIMITATION_DISK", "`disk`", disk=8, longest=60,
              command="dd if=/dev/zero of=$MESOS_SANDBOX/big bs=1M count=48; sleep 1000")
        fault("log", "TASK_FINISHED", None, "", command="dd if=/dev/zero bs=1M count=64", then=log_is_bounded)
        fault("/dev/shm", "TASK_FAILED", "REASON_CONTAINER_LIMITATION_MEMORY", "Memory limit exceeded", mem=32,
              command=f"dd if=/dev/zero of={shm} bs=1M count=60; code=$?; rm -f {shm}; exit $code")
        fault("daemonises", "TASK_FINISHED", None, "", command="cd $MESOS_SANDBOX; (setsid sh -c 'trap \"\" TERM HUP; echo > up; sleep 98765; sleep 98765' &); "
                      "while [ ! -e up ]; do sleep 0.1; done")
        fault("children outlive it", "TASK_FAILED", None, "status 3", command="sleep 98765 & sleep 98765 & exit 3")
        fault("ignores SIGTERM", "TASK_KILLED", None, "", command="trap '' TERM; echo ready; while :; do sleep 1; done", longest=20,
              kill_policy={"grace_period": {"nanoseconds": 1_000_000_000}})
        fault("supervisor killed", "TASK_FAILED", "REASON_EXECUTOR_TERMINATED", "supervisor", command="trap '' TERM; sleep 98766; sleep 98766")
        fault("first process killed", "TASK_FAILED", "REASON_EXECUTOR_TERMINATED", "first process", command="trap '' TERM; sleep 98767; sleep 98767")


    Fault("task (image): /dev/shm beyond its size", "TASK_FINISHED", None, "", mem=256, image=liar.name("tools"),
          command="dd if=/dev/zero of=/dev/shm/evil bs=1M count=100 2>&1 | grep 'No space'")


def log_is_bounded(fault, sandbox):
    """The output kept its budget."""
    sizes = {name: os.path.getsize(f"{sandbox}/{name}") for name in os.listdir(sandbox) if name.startswith("stdout")}
    drill.promise(f"{fault.name}: the budget of its output holds", sum(sizes.values()) <= 2 * 65536, sizes)


def configure():
    """Small limits, so that a fault is soon there, and the registry that lies, which speaks plain HTTP."""
    path = f"{instance.state}/config/agent.toml"
    with open(path, encoding="utf-8") as file:
        text = file.read()
    for line, instead in (("task_processes = 10000", "task_processes = 64"), ("log_file_bytes = 10485760", "log_file_bytes = 65536"),
                          ("log_files = 5", "log_files = 2"), ("insecure = []", f'insecure = ["{liar.host}", "127.0.0.1:9"]'),
                          ("pull_timeout = 3600", "pull_timeout = 15"), ("stall_timeout = 30", "stall_timeout = 1")):
        if text.count(f"\n{line}\n") != 1:
            raise RuntimeError(f"{path} has not one line {line}")
        text = text.replace(f"\n{line}\n", f"\n{instead}\n")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    restart()


def restart():
    """The agent, with new settings."""
    before = instance.pids()["agent"]
    os.kill(before, signal.SIGKILL)
    until("the agent restarted", lambda: instance.pids()["agent"] not in (None, before), 30)
    until("the agent serving", lambda: request(instance.node, 5051, "GET", "/health")[0] == 200, 30)


def sandbox(name):
    """Of a task, by its id."""
    for folder, _, _ in os.walk(f"{instance.state}/agent/slaves"):
        if folder.endswith(f"/executors/{name}/runs/latest") or re.search(rf"/executors/{re.escape(name)}/runs/[0-9a-f-]+$", folder):
            return folder
    return None


def terminal(status):
    """Whether nothing comes after it."""
    return status.get("state") in ("TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_LOST", "TASK_ERROR", "TASK_DROPPED", "TASK_GONE")


def parent(pid):
    """Of a process."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return int(file.read().rsplit(") ", 1)[1].split()[1])


def meddle(framework, fault):
    """What is done to a task that runs."""
    status = framework.last(fault.id)
    if fault.meddled or status.get("state") != "TASK_RUNNING":
        return
    if "ignores SIGTERM" in fault.name:
        if not os.path.exists(f"{sandbox(fault.id)}/stdout") or not os.path.getsize(f"{sandbox(fault.id)}/stdout"):
            return
        framework.call("KILL", {"task_id": {"value": fault.id}, "agent_id": status["agent_id"]})
    elif "killed" in fault.name:
        init = parent(status["container_status"]["executor_pid"])
        os.kill(init if "first" in fault.name else parent(init), signal.SIGKILL)
    else:
        return
    fault.meddled = True


def run(framework, chosen):
    """Launches faults together, and says of each what came of it."""
    framework.launch({fault.id: (fault.resources, fault.info) for fault in chosen})
    began, waiting, took = time.monotonic(), list(chosen), {}
    while waiting and time.monotonic() - began < max(fault.longest for fault in chosen):
        for fault in list(waiting):
            meddle(framework, fault)
            if terminal(framework.last(fault.id)):
                took[fault.id] = time.monotonic() - began
                waiting.remove(fault)
        time.sleep(0.02)
    for fault in chosen:
        status = framework.last(fault.id)
        state, reason, message = status.get("state"), status.get("reason"), status.get("message", "")
        right = state == fault.state and reason in (fault.reason or "").split("|") + [None] * (fault.reason is None)
        good = right and fault.words in message and took.get(fault.id, 1e9) <= fault.longest
        drill.promise(fault.name, good, f"{state} {reason} after {took.get(fault.id, 0):.1f} s: {message}")
        if not terminal(status):
            framework.call("KILL", {"task_id": {"value": fault.id}, "agent_id": status.get("agent_id"), "kill_policy": {"grace_period": {"nanoseconds": 0}}})
        if fault.then and good:
            fault.then(fault, sandbox(fault.id))


def full_store(framework):
    """The image store on a file system that is too small: an image that fits packed but not unpacked, and one that does not fit at all."""
    folder = f"{instance.state}/agent/images"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "faults", folder], check=True)
    try:
        restart()
        liar.add("unpacks", [zeros(40 << 20)])
        liar.add("large", [noise(40 << 20)])
        full = [Fault("full store: an image that unpacks to too much", "TASK_FAILED", LAUNCH, "is full", image=liar.name("unpacks")),
                Fault("full store: an image that is too large", "TASK_FAILED", LAUNCH, "is full", image=liar.name("large"))]
        run(framework, full)
        used = os.statvfs(folder)
        taken = (used.f_blocks - used.f_bfree) * used.f_frsize
        drill.promise("full store: only whole layers are in it", taken < 4 << 20, f"{taken} bytes")
        liar.add("tools", [])
        run(framework, [Fault("full store: a small image after that", "TASK_FINISHED", None, "", image=liar.name("tools"))])
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        restart()


def main():
    """The drill itself."""
    with open(precious, "w", encoding="utf-8") as file:
        file.write("precious")
    instance.up()
    instance.login()
    configure()
    start, watched = everything(instance), machine()
    framework = Framework(instance.node, instance.token)
    for make in (images, fetches, tasks):
        make()
    only = os.environ.get("DRILL_ONLY", "")
    kinds = {"image, registry or fetched file": ("image:", "registry:", "fetch:"), "task": ("task",)}
    for kind, names in kinds.items():
        chosen = [fault for fault in faults.values() if fault.name.startswith(names) and only in fault.name]
        if chosen:
            run(framework, chosen)
            gone = until("nothing left", lambda: everything(instance) == start, 20)[0]
            drill.promise(f"nothing is left of any {kind}", gone, f"{everything(instance)} {'' if gone else (start, processes(instance))}")
    if only in "full store":
        full_store(framework)
        gone = until("nothing left", lambda: everything(instance) == start, 20)[0]
        drill.promise("nothing is left of the full store", gone, everything(instance))
    drill.promise("nothing outside was touched", machine() == watched, "" if machine() == watched else (machine(), watched))
    # The agent was restarted by the drill: for its settings, for the small store, for the store of before.
    wanted = 3 if only in "full store" else 1
    restarts = {role["role"]: role["restarts"] for role in instance.status()["roles"]}
    drill.promise("no component ended by itself", restarts == {role: wanted * (role == "agent") for role in restarts}, restarts)


def machine():
    """Files that hostile input aims at, and what stands where none is."""
    with open(precious, encoding="utf-8") as file:
        found = {precious: file.read()}
    for path in ("/etc/passwd", "/etc/shadow"):
        status = os.stat(path)
        found[path] = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_nlink)
    found.update({aim: os.path.lexists(aim) for aim in [*aims, f"/dev/shm/{instance.name}-evil"]})
    return found


try:
    main()
finally:
    for left in [*aims, f"/dev/shm/{instance.name}-evil"]:
        if os.path.lexists(left):
            os.unlink(left)
    liar.stop()
drill.end()
