"""Apache's own command line (`mesos task ...`, as packaged in avmesos-cli 1.0.0) against master and agent: lists, and commands inside tasks.

usage: mesoscli_flow.py MASTER SERVICES_URL [PRINCIPAL SECRET-FILE]
The task that it looks at is made through the services' API.
"""

import base64
import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import urllib.request

from flow import Flow, equal, until

MASTER, SERVICES = sys.argv[1], sys.argv[2].rstrip("/")
HOME = tempfile.mkdtemp(prefix="mesoscli-flow-")
BIN = os.path.dirname(sys.executable)
CLIENT = os.path.join(BIN, "mesos-cli")
APP = "flow-mesoscli"
flow = Flow("mesoscli")


def basic():
    """The account, where there is one."""
    if len(sys.argv) < 5:
        return None, None
    with open(sys.argv[4], encoding="utf-8") as file:
        return sys.argv[3], file.read().strip()


def configure():
    name, secret = basic()
    account = f'principal = "{name}"\nsecret = "{secret}"\n' if name else ""
    os.makedirs(os.path.join(HOME, ".mesos"))
    with open(os.path.join(HOME, ".mesos", "config.toml"), "w", encoding="utf-8") as file:
        file.write(f'[master]\naddress = "{MASTER}"\n{account}\n[agent]\nssl = false\n{account}')


def services(method, path, body=None):
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    name, secret = basic()
    if name:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(SERVICES + path, data, headers, method=method), timeout=30) as reply:
        return json.load(reply)


def environment():
    return {"HOME": HOME, "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "NO_PROXY": "*", "PYTHONDONTWRITEBYTECODE": "1", "TERM": "dumb"}


def mesos(*arguments, given=None, code=0):
    source = {"stdin": subprocess.DEVNULL} if given is None else {"input": given}
    done = subprocess.run([CLIENT, *arguments], env=environment(), **source, capture_output=True, text=True, timeout=90, check=False)
    equal(done.returncode, code, f"exit code of mesos {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout


def running():
    tasks = services("GET", f"/v2/apps/{APP}").get("app", {}).get("tasks", [])
    return [one["id"] for one in tasks if one["state"] == "TASK_RUNNING"]


def app_runs():
    services("POST", "/v2/apps", {"id": f"/{APP}", "cmd": "exec sleep 3600", "cpus": 0.1, "mem": 32})
    return until("the task runs", running, 60)[0]


def on_a_terminal(task):
    """The client takes a terminal of its own and passes it on."""
    leader, terminal = pty.openpty()
    command = [CLIENT, "task", "exec", "-i", "-t", task, "sh", "-c", "tty && exit 4"]
    with subprocess.Popen(command, env=environment(), stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as client:
        os.close(terminal)
        printed = client.communicate(timeout=60)[0]
    os.close(leader)
    assert "/dev/" in printed, printed
    equal(client.returncode, 4, f"exit code; it printed {printed}")


try:
    configure()
    task = flow.step("an app; its task runs", app_runs)
    flow.step("agent list", lambda: mesos("agent", "list"))
    flow.step("task list", lambda: equal(APP in mesos("task", "list"), True, "the task is listed"))
    flow.step("task exec: output and exit code 0", lambda: equal(mesos("task", "exec", task, "echo", "hello"), "hello\n", "output"))
    flow.step("task exec: exit code 3", lambda: mesos("task", "exec", task, "sh", "-c", "exit 3", code=3))
    text = base64.b64encode(os.urandom(200_000)).decode()
    flow.step("task exec -i cat, fed by a pipe", lambda: equal(mesos("task", "exec", "-i", task, "cat", given=text), text, "what came back"))
    flow.step("task exec -i -t on a terminal", lambda: on_a_terminal(task))
    flow.step("task attach to one without a terminal: refused", lambda: mesos("task", "attach", "--no-stdin", task, code=1))
    flow.step("the app is removed", lambda: services("DELETE", f"/v2/apps/{APP}"))
finally:
    shutil.rmtree(HOME, ignore_errors=True)
flow.end()
