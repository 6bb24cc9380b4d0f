"""`dcos marathon` of the original command line (dcoscli 0.6.1) against the gateway: apps, pods, groups, deployments, what is waiting.

usage: dcos_marathon_flow.py GATEWAY_URL USER PASSWORD-FILE
"""

import json
import os
import shutil

from dcos_client import HOME, URL, contains, dcos, setup
from flow import Flow, equal, until

flow = Flow("dcos_marathon")


def marathon(*arguments, code=0):
    return dcos("marathon", *arguments, code=code)


def shown(*arguments):
    return json.loads(marathon(*arguments))


def file_of(body):
    path = os.path.join(HOME, "body.json")
    with open(path, "w", encoding="ascii") as file:
        json.dump(body, file)
    return path


def settled():
    """No deployment is left."""
    until("the deployments end", lambda: not shown("deployment", "list", "--json"), 60)


def app(name, **more):
    return {"id": f"/flow/{name}", "cmd": "exec sleep 1000", "cpus": 0.01, "mem": 16, "instances": 1, **more}


def add_app():
    contains(marathon("app", "add", file_of(app("web"))), "Created deployment")
    settled()
    equal(shown("app", "show", "/flow/web")["tasksRunning"], 1, "running")
    contains(marathon("app", "list"), "/flow/web")
    contains(marathon("app", "add", file_of(app("web")), code=1), "/flow/web")


def update_app():
    contains(marathon("app", "update", "/flow/web", "instances=2"), "Created deployment")
    settled()
    contains(dcos("marathon", "app", "update", "/flow/web", given='{"env": {"A": "b"}}'), "Created deployment")
    settled()
    now = shown("app", "show", "/flow/web")
    equal((now["instances"], now["tasksRunning"], now["env"]), (2, 2, {"A": "b"}), "instances, running, env")


def versions():
    found = shown("app", "version", "list", "/flow/web")
    equal(len(found), 3, "versions")
    oldest = shown("app", "show", "/flow/web", f"--app-version={found[-1]}")
    equal(oldest["instances"], 1, "instances of the first version")


def tasks():
    return shown("task", "list", "/flow/web", "--json")


def one_task():
    contains(marathon("task", "list"), "/flow/web")
    name = tasks()[0]["id"]
    equal(shown("task", "show", name)["id"], name, "the task")
    marathon("task", "stop", name)
    until("another takes its place", lambda: len(tasks()) == 2 and name not in [one["id"] for one in tasks()], 60)


def restart():
    before = {one["id"] for one in tasks()}
    contains(marathon("app", "restart", "/flow/web"), "Created deployment")
    settled()
    after = {one["id"] for one in tasks()}
    assert len(after) == 2 and not before & after, (before, after)


def stop_and_start():
    marathon("app", "stop", "/flow/web")
    until("no task is left", lambda: not tasks(), 60)
    marathon("app", "start", "/flow/web")
    settled()
    equal(len(tasks()), 1, "tasks")


def kill():
    before = {one["id"] for one in tasks()}
    marathon("app", "kill", "/flow/web")
    until("others run", lambda: len(tasks()) == 1 and not before & {one["id"] for one in tasks()}, 60)


def waits():
    """An app that fits nowhere: what says so, and its deployment rolled back."""
    marathon("app", "add", file_of(app("big", cpus=1000)))
    until("the queue knows it", lambda: "/flow/big" in marathon("debug", "list"), 30)
    until("what was refused", lambda: "0.00%" in marathon("debug", "summary", "/flow/big"), 30)
    marathon("debug", "details", "/flow/big")
    deployment = shown("deployment", "list", "--json")[0]["id"]
    contains(marathon("deployment", "list"), deployment[:8])
    contains(marathon("deployment", "rollback", deployment), "deploymentId")
    settled()
    contains(marathon("app", "show", "/flow/big", code=1), "does not exist")


def stopped_deployment():
    marathon("app", "add", file_of(app("big", cpus=1000)))
    deployment = shown("deployment", "list", "--json")[0]["id"]
    marathon("deployment", "stop", deployment)
    settled()
    marathon("app", "remove", "/flow/big")
    settled()


def pod(instances, word):
    container = {"name": "one", "resources": {"cpus": 0.01, "mem": 16}, "exec": {"command": {"shell": f"echo {word}; exec sleep 1000"}}}
    other = {**container, "name": "two"}
    return {"id": "/flow/pod", "containers": [container, other], "scaling": {"kind": "fixed", "instances": instances}}


def instances():
    return shown("pod", "show", "/flow/pod")["instances"]


def add_pod():
    contains(marathon("pod", "add", file_of(pod(2, "first"))), "Created deployment")
    settled()
    until("it is stable", lambda: shown("pod", "show", "/flow/pod")["status"] == "STABLE", 60)
    equal([one["id"] for one in shown("pod", "list", "--json")], ["/flow/pod"], "pods")
    contains(marathon("pod", "list"), "/flow/pod", "STABLE", "-one", "-two")
    marathon("pod", "add", file_of(pod(2, "first")), code=1)


def update_pod():
    before = {one["id"] for one in instances()}
    path = file_of(pod(1, "second"))
    with open(path, encoding="ascii") as given:
        contains(dcos("marathon", "pod", "update", "/flow/pod", given=given.read()), "Created deployment")
    settled()
    after = {one["id"] for one in instances()}
    assert len(after) == 1 and not before & after, (before, after)


def kill_instance():
    name = instances()[0]["id"]
    marathon("pod", "kill", "/flow/pod", name)
    until("another takes its place", lambda: [one["id"] != name and one["status"] for one in instances()] == ["STABLE"], 60)


def remove_pod():
    marathon("pod", "remove", "/flow/pod")
    settled()
    equal(shown("pod", "list", "--json"), [], "pods")


def group(cmd, instances):
    def one(name, **more):
        return {"id": name, "cmd": cmd, "cpus": 0.01, "mem": 16, "instances": instances, **more}

    return {
        "id": "/tree",
        "apps": [one("front", dependencies=["back/db"])],
        "groups": [{"id": "back", "apps": [one("db")]}, {"id": "empty"}],
    }


def add_group():
    path = file_of(group("exec sleep 1000", 1))
    contains(marathon("group", "add", path), "Created deployment")
    settled()
    marathon("group", "add", path, code=1)
    names = {line.split()[0] for line in marathon("group", "list").splitlines()[1:]}
    assert {"/tree", "/tree/back", "/tree/empty"} <= names, names
    found = shown("group", "show", "/tree")
    equal([one["id"] for one in found["apps"]], ["/tree/front"], "apps")
    # What depends on the other one began later.
    began = {one["appId"]: one["startedAt"] for one in shown("task", "list", "--json")}
    assert began["/tree/back/db"] <= began["/tree/front"], began


def update_group():
    first = shown("group", "show", "/tree")["version"]
    with open(file_of({"dependencies": ["/flow"]}), encoding="ascii") as given:
        contains(dcos("marathon", "group", "update", "/tree", given=given.read()), "Created deployment")
    equal(shown("group", "show", "/tree")["dependencies"], ["/flow"], "dependencies")
    contains(marathon("group", "update", "/tree", "groups=[]"), "Created deployment")
    settled()
    equal(shown("group", "show", "/tree")["groups"], [], "groups")
    old = shown("group", "show", "/tree", f"--group-version={first}")
    equal(sorted(one["id"] for one in old["groups"]), ["/tree/back", "/tree/empty"], "groups of the first version")
    # By a pipe: of the word `version=…` the client makes a URL.
    with open(file_of({"version": first}), encoding="ascii") as given:
        contains(dcos("marathon", "group", "update", "/tree", given=given.read()), "Created deployment")
    settled()
    back = shown("app", "show", "/tree/back/db")
    equal((back["tasksRunning"], shown("group", "show", "/tree")["dependencies"]), (1, []), "as it was")


def scale_group():
    contains(marathon("group", "scale", "/tree", "2"), "Created deployment")
    settled()
    equal([shown("app", "show", one)["tasksRunning"] for one in ("/tree/front", "/tree/back/db")], [2, 2], "running")


def remove_group():
    marathon("group", "remove", "/tree")
    settled()
    marathon("group", "show", "/tree", code=1)
    marathon("group", "remove", "/tree", code=1)


def remove_app():
    marathon("app", "remove", "/flow/web")
    settled()
    equal(shown("app", "list", "--json"), [], "apps")


try:
    setup(URL)
    flow.step("app add, show, list; a second of that name: exit code 1", add_app)
    flow.step("app update by words and by a pipe", update_app)
    flow.step("app version list; app show of a version", versions)
    flow.step("task list, show, stop", one_task)
    flow.step("app restart", restart)
    flow.step("app stop and start", stop_and_start)
    flow.step("app kill", kill)
    flow.step("debug list, summary, details; deployment list, rollback", waits)
    flow.step("deployment stop", stopped_deployment)
    flow.step("pod add, show, list; a second of that name: exit code 1", add_pod)
    flow.step("pod update", update_pod)
    flow.step("pod kill", kill_instance)
    flow.step("pod remove", remove_pod)
    flow.step("group add, list, show; a second of that name: exit code 1", add_group)
    flow.step("group update by a pipe and by words, back to a version", update_group)
    flow.step("group scale", scale_group)
    flow.step("group remove", remove_group)
    flow.step("app remove", remove_app)
finally:
    shutil.rmtree(HOME, ignore_errors=True)
flow.end()
