"""What drills share: an instance, its components, HTTP and DNS by hand, a client that asks without pause, promises that hold or break."""

import http.client
import json
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

PLENUM = os.environ["PLENUM"]
# How many times longer than usual everything may take: emulated processors are slow.
PATIENCE = float(os.environ.get("DRILL_PATIENCE") or 1)


class Drill:
    """Counts the promises of one drill."""

    def __init__(self, name):
        self.name, self.kept, self.broken = name, 0, 0

    def promise(self, what, holds, saw=""):
        """Says whether a promise holds and what was seen."""
        self.kept, self.broken = self.kept + bool(holds), self.broken + (not holds)
        print(f"{'kept  ' if holds else 'BROKEN'} {what}{': ' + str(saw) if saw != '' else ''}", flush=True)
        return holds

    def end(self):
        """Prints the count and ends the program."""
        print(f"{self.name}: {self.kept} passed, {self.broken} failed", flush=True)
        sys.exit(1 if self.broken or not self.kept else 0)


class Instance:
    """An instance under test."""

    def __init__(self, name):
        self.name = name

    def plenum(self, *arguments, check=True, timeout=90):
        """Runs the command and gives its output."""
        done = subprocess.run([PLENUM, *arguments], capture_output=True, text=True, timeout=timeout, check=False)
        if check and done.returncode:
            raise RuntimeError(f"plenum {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def up(self, *arguments):
        """Starts it; knows its addresses and password afterwards."""
        output = self.plenum("up", "--detach", "--instance", self.name, *arguments)
        found = re.search(r"admin has the password (\S+)", output)
        if found:
            self.password = found.group(1)
        self.state = os.path.dirname(os.path.dirname(self.status()["roles"][0]["log"]))
        with open(f"{self.state}/config/agent.toml", encoding="utf-8") as file:
            self.node = re.search(r"127\.88\.\d+\.1", file.read()).group(0)
        return output

    def status(self):
        """What the supervisor says."""
        return json.loads(self.plenum("status", "--instance", self.name, "-o", "json"))

    def pids(self):
        """Process ids by component."""
        return {role["role"]: role.get("pid") for role in self.status()["roles"]}

    def settings(self, line, instead, *more):
        """Changes a line of the agent's file, and `more` of such pairs, and has it read."""
        path = f"{self.state}/config/agent.toml"
        with open(path, encoding="utf-8") as file:
            text = file.read()
        for line, instead in [(line, instead), *zip(more[::2], more[1::2])]:
            if text.count(f"\n{line}\n") != 1:
                raise RuntimeError(f"{path} has not one line {line}")
            text = text.replace(f"\n{line}\n", f"\n{instead}\n")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        before = self.pids()["agent"]
        os.kill(before, signal.SIGKILL)
        until("the agent restarted", lambda: self.pids()["agent"] not in (None, before), 30)
        until("the agent serving", lambda: request(self.node, 5051, "GET", "/health")[0] == 200, 30)

    def login(self):
        """A token of the first account."""
        body = {"uid": "admin", "password": self.password}
        status, answer = request(self.node, 443, "POST", "/acs/api/v1/auth/login", body)
        if status != 200:
            raise RuntimeError(f"login: {status} {answer}")
        self.token = json.loads(answer)["token"]
        return self.token

    def api(self, method, path, body=None):
        """Calls the gateway; gives status and JSON."""
        status, answer = request(self.node, 443, method, path, body, {"Authorization": f"token={self.token}"})
        return status, json.loads(answer) if answer[:1] in (b"{", b"[") else answer

    def resolve(self, name):
        """The addresses of a name by this instance's own DNS server."""
        return lookup(self.node.rsplit(".", 1)[0] + ".53", name)


def request(host, port, method, path, body=None, headers=None, timeout=5):
    """One HTTP request on a connection of its own."""
    timeout *= PATIENCE
    if port == 443:
        # The drill speaks to the node's own address; what is tested is not the client's trust.
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        data = json.dumps(body) if isinstance(body, (dict, list)) else body
        kind = {"Content-Type": "application/json"} if data is not None else {}
        connection.request(method, path, data, {**kind, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def lookup(server, name, timeout=1.0):
    """The A records of a name; raises where the server does not answer or refuses."""
    number = struct.unpack("!H", os.urandom(2))[0]
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.strip(".").split("."))
    query = struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.settimeout(timeout)
        connection.sendto(query, (server, 53))
        answer = connection.recv(4096)
    found, flags, _, answers, _, _ = struct.unpack("!6H", answer[:12])
    if found != number or flags & 0xF:
        raise OSError(f"answer code {flags & 0xF} for {name}")
    at, addresses = len(query), []
    for _ in range(answers):
        while answer[at] and answer[at] < 0xC0:
            at += answer[at] + 1
        at += 2 if answer[at] >= 0xC0 else 1
        kind, _, _, length = struct.unpack("!2HIH", answer[at:at + 10])
        at += 10
        if kind == 1:
            addresses.append(socket.inet_ntoa(answer[at:at + 4]))
        at += length
    return addresses


class Asker(threading.Thread):
    """Asks without pause until told to stop; keeps when it failed, and why."""

    def __init__(self, ask, pause=0.005):
        super().__init__(daemon=True)
        self.ask, self.pause, self.failures, self.asked, self.running = ask, pause, [], 0, True
        self.longest = 0.0

    def run(self):
        while self.running:
            began = time.monotonic()
            try:
                self.ask()
            except Exception as error:  # whatever a client can meet
                self.failures.append((time.monotonic(), f"{type(error).__name__}: {error}"))
            self.asked += 1
            self.longest = max(self.longest, time.monotonic() - began)
            time.sleep(self.pause)

    def stop(self):
        """Stops and waits."""
        self.running = False
        self.join(10)
        return self


def until(what, condition, seconds):
    """Waits for a condition; gives its value and the time that it took, or None."""
    seconds *= PATIENCE
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        try:
            value = condition()
        except Exception:  # not there yet is what is waited out
            value = None
        if value:
            return value, time.monotonic() - began
        time.sleep(0.01)
    print(f"       not within {seconds} s: {what}", flush=True)
    return None, seconds


def ok(host, port, path="/"):
    """Asks once; fails unless the answer is 200."""
    status, body = request(host, port, "GET", path, timeout=2)
    if status != 200:
        raise RuntimeError(f"status {status}")
    return body.decode()


def install_hello(instance, drill, instances=2):
    """Installs the package `hello` and waits until name and virtual address answer; gives the virtual address."""
    options = f"{instance.state}/hello-options.json"
    with open(options, "w", encoding="utf-8") as file:
        json.dump({"service": {"instances": instances}}, file)
    instance.plenum("package", "install", "hello", "--instance", instance.name, "--options", options)
    instance.login()
    healthy = lambda: instance.api("GET", "/service/marathon/v2/apps/hello")[1]["app"]["tasksHealthy"] == instances
    took = until("healthy instances", healthy, 30)[1]
    drill.promise("the package's instances are healthy", took < 30, f"{took:.2f} s")
    vip, took = until("the virtual address's name", lambda: instance.resolve("hello.marathon.l4lb.thisdcos.directory"), 10)
    drill.promise("the virtual address has a name", vip, vip)
    until("the virtual address answers", lambda: ok(vip[0], 80), 10)
    return vip[0]


def tasks(instance):
    """The tasks of `hello` by id."""
    answer = instance.api("GET", "/service/marathon/v2/apps/hello/tasks")[1]
    return {task["id"]: task for task in answer["tasks"]}


def task_pids(instance):
    """The host's process ids of the running tasks of `hello`, by task id, out of their environment."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            if b"hello" not in words or b"--port" not in words:
                continue
            with open(f"/proc/{pid}/environ", "rb") as file:
                environment = dict(one.split(b"=", 1) for one in file.read().split(b"\0") if b"=" in one)
            if f"/{instance.name}/".encode() in environment.get(b"MESOS_SANDBOX", b""):
                found[environment[b"MESOS_TASK_ID"].decode()] = int(pid)
        except (OSError, KeyError):
            continue
    return found
