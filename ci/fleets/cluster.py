"""A cluster on a fleet, as its admin sees it: cluster.yaml, the installer, the command line, and HTTP through any gateway."""

import http.client
import json
import os
import ssl
import subprocess
import sys
import threading
import time
import uuid

from hosts import wait

PLENUM = os.environ["PLENUM"]
ETCD = os.environ.get("FLEET_ETCD", "/usr/bin/etcd")
PASSWORD = "fleet-test-password-1"


# Settings for machines that are emulated, on which a handshake takes as long as an election does elsewhere.
EMULATED = {
    "settings": {
        "etcd": {"heartbeat_milliseconds": 500, "election_milliseconds": 5000},
        **{role: {"store": {"lease_seconds": 10}} for role in ["master", "services", "discovery", "catalog", "identity"]},
    }
}


class Show:
    """Counts the promises of one scenario, and prints figures."""

    def __init__(self, name):
        self.name, self.kept, self.broken, self.began = name, 0, 0, time.monotonic()

    def promise(self, what, holds, saw=""):
        """Says whether a promise holds and what was seen."""
        self.kept, self.broken = self.kept + bool(holds), self.broken + (not holds)
        print(f"{'kept  ' if holds else 'BROKEN'} {what}{': ' + str(saw) if saw != '' else ''}", flush=True)
        return holds

    def say(self, text):
        """Prints a figure or what happens."""
        print(f"       {text}  [{time.monotonic() - self.began:.0f} s]", flush=True)

    def end(self):
        """Prints the count and ends the program."""
        print(f"{self.name}: {self.kept} passed, {self.broken} failed", flush=True)
        sys.exit(1 if self.broken or not self.kept else 0)


class Failed(RuntimeError):
    """A command that failed, or an answer that is no success."""

    def __init__(self, text, status=None):
        super().__init__(text)
        self.status = status


class Cluster:
    """The cluster."""

    def __init__(self, fleet, roles, name="default", **extra):
        """`roles`: host -> what it is for. `extra`: more of cluster.yaml (`ssh`, `store`, `top`), and of single hosts (`hosts`, by name)."""
        self.fleet, self.roles, self.name, self.extra = fleet, dict(roles), name, extra
        self.home = os.path.join(fleet.folder, "laptop")
        os.makedirs(self.home, exist_ok=True)
        self.file = os.path.join(self.home, "cluster.yaml")
        self.token = None
        self.write()

    def masters(self):
        """The hosts that are masters."""
        return [host for host, roles in self.roles.items() if "master" in roles]

    def agents(self):
        """The hosts that run tasks."""
        return [host for host, roles in self.roles.items() if "agent" in roles or "public" in roles]

    def write(self):
        """Writes cluster.yaml (JSON is YAML)."""
        ssh = {"user": "ops", "key": [self.fleet.key], "agent": False, "known_hosts": self.fleet.known_hosts, **self.extra.get("ssh", {})}
        wish = {
            "name": self.name,
            "hosts": [
                {"name": host.name, "address": host.address, "roles": roles, **self.extra.get("hosts", {}).get(host.name, {})}
                for host, roles in self.roles.items()
            ],
            "ssh": ssh,
            "store": {"binary": ETCD, **self.extra.get("store", {})},
            "admin": {"password": "env:FLEET_ADMIN"},
            **self.extra.get("top", {}),
        }
        with open(self.file, "w", encoding="utf-8") as file:
            json.dump(wish, file, indent=1)

    def pause(self, seconds):
        """Between two looks. On emulated machines each look is a good part of the load."""
        return 3.0 if self.fleet.kind == "vm" else seconds

    # The command line.

    def environment(self):
        """That of the admin's shell."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PLENUM", "XDG", "SSH_"))}
        return {**kept, "HOME": self.home, "FLEET_ADMIN": PASSWORD, "NO_COLOR": "1"}

    def start(self, *arguments, **options):
        """Starts the command."""
        return subprocess.Popen(
            [PLENUM, *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment(), cwd=self.home, **options,
        )  # fmt: skip

    def plenum(self, *arguments, check=True, timeout=600):
        """Runs the command; gives its output, and what it said to people when it failed."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise Failed(f"plenum {' '.join(arguments)} still ran after {timeout} s: {out[-3000:]}{err[-3000:]}") from None
        if check and process.returncode:
            raise Failed(f"plenum {' '.join(arguments)}: {process.returncode}: {out[-3000:]}{err[-3000:]}")
        self.said = err
        return out

    def json(self, *arguments, check=True, timeout=600):
        """The same with `-o json`."""
        return json.loads(self.plenum(*arguments, "-o", "json", check=check, timeout=timeout))

    def apply(self, *arguments, check=True, timeout=900):
        """Installs, or does what is left."""
        return self.plenum("install", "apply", "--config", self.file, "--yes", *arguments, check=check, timeout=timeout)

    # HTTP.

    def call(self, host, method, path, body=None, headers=None, timeout=10.0, token=True):
        """One request to the gateway of `host`; gives status and body."""
        # The harness made the hosts and their network; what is tested here is not the client's trust.
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(host.address, 443, timeout=timeout, context=context)
        try:
            sent = {"Content-Type": "application/json", **(headers or {})}
            if token:
                sent["Authorization"] = f"token={self.login()}"
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            answer = connection.getresponse()
            data = answer.read()
            return answer.status, json.loads(data) if data[:1] in (b"{", b"[") else data
        finally:
            connection.close()

    def login(self):
        """A token of the first account, from any master."""
        if self.token is None:
            last = None
            for host in self.masters():
                try:
                    body = {"uid": "admin", "password": PASSWORD}
                    status, answer = self.call(host, "POST", "/acs/api/v1/auth/login", body, token=False)
                    if status == 200:
                        self.token = answer["token"]
                        return self.token
                    last = f"{status} {answer}"
                except OSError as error:
                    last = error
            raise Failed(f"login: {last}")
        return self.token

    def ask(self, method, path, body=None, headers=None, hosts=None, timeout=10.0):
        """A request to the first gateway that answers with success; raises what the last one said."""
        last = None
        for host in hosts or self.masters():
            try:
                status, answer = self.call(host, method, path, body, headers, timeout)
                if 200 <= status < 300:
                    return answer
                last = Failed(f"{method} {path} at {host}: {status} {answer}", status)
            except (OSError, http.client.HTTPException) as error:
                last = Failed(f"{method} {path} at {host}: {error!r}")
        raise last

    def status(self, hosts=None, timeout=10.0):
        """What the gateway says of the whole cluster."""
        return self.ask("GET", "/plenum/v1/status", hosts=hosts, timeout=timeout)

    def by_url(self, url):
        """The host of a URL of one of its roles."""
        for host in self.fleet.hosts:
            if url and f"//{host.address}:" in url:
                return host
        return None

    def leader(self, role="master", hosts=None):
        """The host that leads `role`: `master`, `services` or `discovery`."""
        return self.by_url((self.status(hosts)["leaders"].get(role) or {}).get("url", ""))

    def etcd_leader(self, hosts=None):
        """The host whose etcd member leads."""
        for etcd in self.etcds(self.status(hosts)):
            if etcd.get("leader"):
                return next(host for host in self.fleet.hosts if host.name == etcd["leader"])
        return None

    @staticmethod
    def etcds(status):
        """What the caretaker of each master's member of etcd says."""
        return [master["etcd"] for master in status["masters"] if isinstance(master.get("etcd"), dict) and "members" in master["etcd"]]

    def wait_healthy(self, seconds=60, masters=None, agents=None):
        """Waits until every master votes and every agent is active."""
        masters = len(self.masters()) if masters is None else masters
        agents = len(self.agents()) if agents is None else agents

        def healthy():
            status = self.status(timeout=5.0)
            etcds = self.etcds(status)
            members = [member for member in (etcds[0]["members"] if etcds else []) if member.get("healthy") and member.get("votes")]
            stores = masters == 1 or len(etcds) == len(members) == masters
            well = status["healthy"] or (masters == 1 and status["leaders"])
            if not (stores and well and (status["agents"] or {}).get("active", 0) == agents):
                raise Failed(f"{status['problems']} {status['agents']} {len(etcds)} {len(members)}")
            return True

        wait(f"a healthy cluster with {masters} masters and {agents} agents", seconds, healthy, self.pause(0.3))

    # Apps.

    def deploy(self, app, seconds=90):
        """Creates an app and waits until all its instances are healthy (running, where it has no health check)."""
        self.ask("POST", "/service/marathon/v2/apps", app, {"Idempotency-Key": str(uuid.uuid4())})
        return self.wait_app(app["id"], app["instances"], seconds, bool(app.get("healthChecks")))

    def tasks(self, app, hosts=None, timeout=10.0):
        """An app's tasks."""
        return self.ask("GET", f"/service/marathon/v2/apps{app}/tasks", hosts=hosts, timeout=timeout)["tasks"]

    def wait_app(self, app, count, seconds=60, health=True, hosts=None):
        """Waits until exactly `count` instances run and are healthy; gives them."""

        def well():
            tasks = self.tasks(app, hosts, 5.0)
            good = [
                task
                for task in tasks
                if task["state"] == "TASK_RUNNING"
                and (not health or any(result["alive"] for result in task.get("healthCheckResults", [])))
            ]
            if len(good) == count == len(tasks):
                return good
            failure = self.ask("GET", f"/service/marathon/v2/apps{app}", hosts=hosts, timeout=5.0)["app"].get("lastTaskFailure")
            raise Failed(f"{[(task['state'], task['host']) for task in tasks]}, last failure: {failure}")

        return wait(f"{count} healthy instances of {app}", seconds, well, self.pause(0.2))


def web(identity="/web", instances=2, address="11.0.200.1:80", **more):
    """An app that answers HTTP with its task's id, behind a virtual address."""
    server = (
        "import os,http.server as h\n"
        "class S(h.BaseHTTPRequestHandler):\n"
        " protocol_version='HTTP/1.1'\n"
        " def log_message(s,*a): pass\n"
        " def do_GET(s):\n"
        "  b=os.environ['MESOS_TASK_ID'].encode(); s.send_response(200); s.send_header('Content-Length',str(len(b))); s.end_headers(); s.wfile.write(b)\n"
        "h.ThreadingHTTPServer(('0.0.0.0',int(os.environ['PORT0'])),S).serve_forever()\n"
    )
    return {
        "id": identity,
        "cmd": f'exec python3 -c "{server}"',
        "instances": instances,
        "cpus": 0.05,
        "mem": 32,
        "portDefinitions": [{"port": 0, "protocol": "tcp", "name": "http", "labels": {"VIP_0": address}}],
        "healthChecks": [
            {"protocol": "MESOS_HTTP", "path": "/", "portIndex": 0, "gracePeriodSeconds": 10, "intervalSeconds": 1, "timeoutSeconds": 5, "delaySeconds": 0}
        ],
        **more,
    }


# Runs on a host: asks a virtual address without pause, one connection a request; prints one line for each failure, and counts at the end.
ASKER = """
import http.client,sys,time,signal
host,port=sys.argv[1].split(':'); n=f=0; end=[False]
signal.signal(signal.SIGTERM,lambda *a:end.__setitem__(0,True)); signal.signal(signal.SIGHUP,lambda *a:end.__setitem__(0,True))
while not end[0]:
    n+=1
    try:
        c=http.client.HTTPConnection(host,int(port),timeout=5); c.request('GET','/'); r=c.getresponse(); r.read(); c.close()
        if r.status!=200: raise OSError('status %d'%r.status)
    except Exception as e:
        f+=1; print('failed',time.time(),repr(e),flush=True)
    time.sleep(0.02)
print('count',n,f,flush=True)
"""


class Asker:
    """Asks a virtual address without pause on a host until stopped."""

    def __init__(self, host, address):
        self.host = host
        host.ssh(f"cat >/var/tmp/asker.py <<'END'\n{ASKER}\nEND")
        self.log = f"/var/tmp/asker-{uuid.uuid4().hex}.log"
        host.ssh(f"setsid nohup python3 /var/tmp/asker.py {address} >{self.log} 2>&1 </dev/null & echo $! >{self.log}.pid")

    def stop(self):
        """Gives how many were asked and the lines of those that failed."""
        self.host.ssh(f"kill $(cat {self.log}.pid); for i in 1 2 3 4 5 6 7 8; do sleep 1; grep -q ^count {self.log} && break; done")
        lines = self.host.ssh(f"cat {self.log}").splitlines()
        counts = next((line.split() for line in lines if line.startswith("count")), None)
        if counts is None:
            raise Failed(f"the client on {self.host} was stopped or never ran: {lines[-3:]}")
        return int(counts[1]), [line for line in lines if line.startswith("failed")]


class Writer(threading.Thread):
    """Writes app intents through whichever gateway answers, each with an idempotency key that it repeats until the write is acknowledged."""

    def __init__(self, cluster, prefix="/load", pause=0.05, timeout=2.0):
        super().__init__(daemon=True)
        self.cluster, self.prefix, self.pause, self.timeout = cluster, prefix, pause, timeout
        self.acknowledged, self.refused, self.going, self.down = [], [], True, set()

    def run(self):
        number = 0
        while self.going:
            number += 1
            app = {"id": f"{self.prefix}/w{number}", "cmd": "sleep 1000", "instances": 0, "cpus": 0.01, "mem": 16}
            key, began = str(uuid.uuid4()), time.monotonic()
            while self.going:
                hosts = [host for host in self.cluster.masters() if host not in self.down]
                host = hosts[len(self.refused) % len(hosts)]
                try:
                    status, answer = self.cluster.call(
                        host, "POST", "/service/marathon/v2/apps", app, {"Idempotency-Key": key}, self.timeout
                    )
                    if status in (200, 201):
                        self.acknowledged.append((began, time.monotonic(), app["id"]))
                        break
                    self.refused.append((time.monotonic(), app["id"], host.name, status, str(answer)[:300]))
                    if status in (409, 422, 400):
                        break
                except (OSError, http.client.HTTPException) as error:
                    self.refused.append((time.monotonic(), app["id"], host.name, 0, repr(error)))
                time.sleep(0.05)
            time.sleep(self.pause)

    def stop(self):
        """Stops and waits."""
        self.going = False
        self.join(20)

    def first_after(self, moment):
        """Seconds from `moment` to the first acknowledgement of a write that was begun after it; none yet: None."""
        found = [end - moment for begin, end, _ in list(self.acknowledged) if begin >= moment]
        return min(found, default=None)

    def read(self, path):
        """What is there; a cluster whose leader has just changed is asked again."""
        return wait(path, 60, lambda: self.cluster.ask("GET", path, timeout=30), 1.0)

    def check(self, show):
        """Every acknowledged write is there, applied once; nothing was refused for good."""
        there = {app["id"]: app for app in self.read("/service/marathon/v2/apps")["apps"]}
        lost = [app for _, _, app in self.acknowledged if app not in there]
        show.promise(f"none of {len(self.acknowledged)} acknowledged writes is lost", not lost and self.acknowledged, lost[:5] or "")
        twice = []
        for _, _, app in self.acknowledged[-200:]:
            versions = self.read(f"/service/marathon/v2/apps{app}/versions")["versions"]
            if len(versions) != 1:
                twice.append((app, len(versions)))
        show.promise("no write is applied twice (versions of the last 200)", not twice, twice[:5] or "")
        wrong = [line for line in self.refused if line[3] in (400, 409, 422)]
        show.promise("no repeated write is refused as another's", not wrong, wrong[:3] or "")
