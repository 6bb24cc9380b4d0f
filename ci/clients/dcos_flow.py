"""The original command line `dcos` (Python, dcoscli 0.6.1) against the gateway: clusters, logging in and out, what it reads, and tasks:
lists, files, logs, commands inside of them, figures.

usage: dcos_flow.py GATEWAY_URL USER PASSWORD-FILE [HTTPS_URL]
Without HTTPS_URL the gateway's TLS port is the one beside its plain one (80 and 443, 8081 and 8443).
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from urllib.parse import urlsplit

from dcos_client import CLIENT, HOME, PASSWORD_FILE, URL, USER, attached, contains, dcos, environment, setup
from flow import Flow, equal, until

PARTS = urlsplit(URL)
SECURE = sys.argv[4] if len(sys.argv) > 4 else f"https://{PARTS.hostname}:{ {80: 443, 8081: 8443}.get(PARTS.port or 80, 443) }"
flow = Flow("dcos")


def in_home(name, body):
    """Runs `body` with a home of its own."""
    home = os.path.join(HOME, name)
    os.makedirs(home)
    return body(home)


def with_ca(home):
    """Takes the CA's certificate from the gateway as an operator would, then trusts it from the first request on."""
    path = os.path.join(home, "ca.pem")
    with urllib.request.urlopen(f"{URL}/ca/dcos-ca.crt", timeout=10) as reply, open(path, "wb") as file:
        file.write(reply.read())
    setup(SECURE, f"--ca-certs={path}", home=home)
    contains(dcos("config", "show", home=home), path)


def with_fetched_ca(home):
    setup(SECURE, "--no-check", home=home)
    contains(dcos("config", "show", home=home), "dcos_ca.crt")


def without_trust(home):
    """A CA that is not the cluster's: the client must refuse."""
    path = os.path.join(home, "other.pem")
    subject = ["-subj", "/CN=somebody else"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", os.devnull, "-out", path, *subject],
        check=True,
        capture_output=True,
        timeout=30,
    )
    options = [f"--username={USER}", f"--password-file={PASSWORD_FILE}", f"--ca-certs={path}"]
    dcos("cluster", "setup", SECURE, *options, home=home, code=1)


def wrong_password(home):
    path = os.path.join(home, "password")
    with open(path, "w", encoding="ascii") as file:
        file.write("not-the-password")
    dcos("cluster", "setup", URL, f"--username={USER}", f"--password-file={path}", home=home, code=1)
    equal(json.loads(dcos("cluster", "list", "--json", home=home)), [], "clusters after a refused login")


def providers():
    found = json.loads(dcos("auth", "list-providers", "--json"))
    methods = [one["client-method"] for one in found.values()]
    assert "dcos-usercredential-post-receive-authtoken" in methods, found


def logged_out():
    dcos("auth", "logout")
    assert "dcos_acs_token" not in dcos("config", "show"), "the token is still there"
    # Nobody can be asked for a password here, so the command must fail, not wait.
    dcos("marathon", "app", "list", code=1)


def log_in():
    dcos("auth", "login", f"--username={USER}", f"--password-file={PASSWORD_FILE}")
    contains(dcos("config", "show"), "dcos_acs_token")
    dcos("marathon", "app", "list")


def wrong_login():
    dcos("auth", "login", f"--username={USER}", "--password=not-the-password", code=1)


def nodes():
    listed = json.loads(dcos("node", "--json"))
    assert [one for one in listed if one.get("id") or one.get("type")], listed


def services():
    names = [one["name"] for one in json.loads(dcos("service", "--json"))]
    assert "marathon" in names, names


def about():
    found = json.loads(dcos("marathon", "about"))
    equal((found["name"], found["elected"]), ("marathon", True), "name, elected")


def removed():
    dcos("cluster", "remove", "--all")
    equal(json.loads(dcos("cluster", "list", "--json")), [], "clusters")


def hello():
    found = json.loads(dcos("package", "search", "hello", "--json"))
    assert "hello" in [one["name"] for one in found["packages"]], found


TASK = "flow-six"
SCRIPT = "echo first line; echo oops >&2; n=0; while [ ! -e stop ]; do n=$((n+1)); echo line $n; sleep 0.5; done"


def app_runs():
    """A task that prints; the rest of the flow looks at it."""
    path = os.path.join(HOME, "app.json")
    with open(path, "w", encoding="ascii") as file:
        json.dump({"id": f"/{TASK}", "cmd": SCRIPT, "cpus": 0.1, "mem": 32, "instances": 1}, file)
    dcos("marathon", "app", "add", path)
    until("the task runs", lambda: [one for one in tasks() if one["state"] == "TASK_RUNNING"], 60)


def tasks():
    return json.loads(dcos("task", TASK, "--json"))


def task_listed():
    contains(dcos("task"), TASK)
    equal([one["name"] for one in tasks()], [TASK], "tasks")


def task_files():
    names = dcos("task", "ls", TASK).split()
    assert {"stdout", "stderr"} <= set(names), names


def task_log():
    until("the log's beginning", lambda: "first line" in dcos("task", "log", "--lines=1000", TASK))
    contains(dcos("task", "log", TASK, "stderr"), "oops")


def task_log_follows():
    """What is printed while the client follows arrives there."""
    with subprocess.Popen(
        [CLIENT, "task", "log", "--follow", "--lines=1", TASK],
        env=environment(HOME), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as client:
        try:
            seen = []
            until("two lines more", lambda: seen.append(client.stdout.readline()) or len(seen) >= 3, 30)
        finally:
            client.kill()
    numbers = [int(line.split()[1]) for line in seen if line.startswith("line ")]
    assert len(numbers) >= 2 and numbers == sorted(set(numbers)), seen


def agent(call):
    """Asks the task's agent through the gateway, as the client does."""
    import tomllib

    folder = os.path.join(HOME, ".dcos", "clusters")
    with open(os.path.join(folder, os.listdir(folder)[0], "dcos.toml"), "rb") as file:
        token = tomllib.load(file)["core"]["dcos_acs_token"]
    url = f"{URL}/agent/{tasks()[0]['slave_id']}/api/v1"
    headers = {"Authorization": f"token={token}", "Content-Type": "application/json", "Accept": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(call).encode(), headers), timeout=60) as reply:
        return json.load(reply)


def exec_ends_with(code):
    """This client tells nobody how a command ended, so the agent is asked."""
    command = [CLIENT, "task", "exec", TASK, "sh", "-c", f"echo begun; sleep 3; exit {code}"]
    with subprocess.Popen(
        command, env=environment(HOME), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as client:
        listed = {"type": "GET_CONTAINERS", "get_containers": {"show_nested": True}}
        nested = until(
            "the command is listed",
            lambda: [
                one["container_id"]
                for one in agent(listed)["get_containers"].get("containers", [])
                if "parent" in one["container_id"] and one.get("executor_id", {}).get("value", "").startswith(TASK)
            ],
        )
        waited = agent({"type": "WAIT_NESTED_CONTAINER", "wait_nested_container": {"container_id": nested[0]}})
        equal(waited["wait_nested_container"]["exit_status"], code << 8, "exit status")
        printed = client.communicate(timeout=60)[0]
        equal((printed, client.returncode), ("begun\n", 0), "what the client printed, and its own exit code")


def exec_cat():
    text = base64.b64encode(os.urandom(300_000)).decode()
    equal(dcos("task", "exec", "-i", TASK, "cat", given=text), text, "what came back")


def task_metrics():
    found = json.loads(dcos("task", "metrics", "details", tasks()[0]["id"], "--json"))
    names = {one["name"] for one in found}
    assert {"cpus.user.time", "mem.total", "mem.limit"} <= names, names
    contains(dcos("task", "metrics", "summary", tasks()[0]["id"]), "GiB")


def node_metrics():
    contains(dcos("node", "metrics", "summary", tasks()[0]["slave_id"]), "GiB")


def app_gone():
    dcos("marathon", "app", "remove", f"/{TASK}")
    until("no task is left", lambda: not tasks(), 60)


try:
    flow.step("cluster setup over plain HTTP", lambda: setup(URL))
    flow.step("--version", lambda: contains(dcos("--version"), "dcoscli.version=0.6.1", "dcos.version=2.2"))
    flow.step("auth list-providers", providers)
    flow.step("config show", lambda: contains(dcos("config", "show"), f"core.dcos_url {URL}", "cluster.name"))
    flow.step("cluster list: attached and available", lambda: equal(attached()["status"], "AVAILABLE", "status"))
    flow.step("marathon about", about)
    flow.step("marathon app list", lambda: dcos("marathon", "app", "list"))
    flow.step("service", services)
    flow.step("node", nodes)
    flow.step("package search hello", hello)
    flow.step("marathon app add; its task runs", app_runs)
    flow.step("task; task --json", task_listed)
    flow.step("task ls", task_files)
    flow.step("task log", task_log)
    flow.step("task log --follow", task_log_follows)
    flow.step("task exec: exit code 0", lambda: exec_ends_with(0))
    flow.step("task exec: exit code 3", lambda: exec_ends_with(3))
    flow.step("task exec -i cat, fed by a pipe", exec_cat)
    flow.step("task metrics details and summary", task_metrics)
    flow.step("node metrics summary", node_metrics)
    flow.step("marathon app remove; its task is gone", app_gone)
    flow.step("logout; a command fails", logged_out)
    flow.step("login; the command works", log_in)
    flow.step("login with a wrong password: exit code 1", wrong_login)
    flow.step("cluster setup with a wrong password: exit code 1, no cluster", lambda: in_home("wrong", wrong_password))
    flow.step("cluster setup over TLS with the CA given", lambda: in_home("ca", with_ca))
    flow.step("cluster setup over TLS with the CA fetched", lambda: in_home("fetched", with_fetched_ca))
    flow.step("cluster setup over TLS with another CA: exit code 1", lambda: in_home("other", without_trust))
    flow.step("cluster remove", removed)
finally:
    shutil.rmtree(HOME, ignore_errors=True)
flow.end()
