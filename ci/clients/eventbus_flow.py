"""The event stream as marathon-event-bus-client 0.1.7 (Node) hears it, through the gateway with TLS and a login: every event of an app's
life, and nothing that is not on the stream.

usage: eventbus_flow.py HTTPS_URL USER PASSWORD-FILE
"""

import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
import urllib.request
import uuid
from urllib.parse import urlsplit

from flow import Flow, equal, until

URL = sys.argv[1].rstrip("/")
USER = sys.argv[2]
with open(sys.argv[3], encoding="utf-8") as secret:
    PASSWORD = secret.read().strip()
HOST, PORT = urlsplit(URL).hostname, urlsplit(URL).port or 443
FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(sys.executable)))
HERE = os.path.dirname(os.path.abspath(__file__))
NODE = shutil.which("node") or shutil.which("nodejs")
EVENTS = "/service/marathon/v2/events"
ID = f"/flow/web-{uuid.uuid4().hex[:6]}"
flow = Flow("eventbus")


def authority():
    """What the gateway's certificate is checked against is had without TLS, as browsers have it."""
    with urllib.request.urlopen(f"http://{HOST}/ca/dcos-ca.crt", timeout=10) as answer:
        return ssl.create_default_context(cadata=answer.read().decode())


TRUST = authority()


def call(method, path, body=None, token=None, wanted=(200, 201, 202, 204)):
    """One request through the gateway: its status and its JSON."""
    line = http.client.HTTPSConnection(HOST, PORT, timeout=20, context=TRUST)
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"token={token}"
    line.request(method, path, None if body is None else json.dumps(body), headers)
    answer = line.getresponse()
    text = answer.read()
    line.close()
    assert answer.status in wanted, f"{method} {path}: {answer.status} {text[:500]!r}"
    return json.loads(text or b"null")


TOKEN = call("POST", "/acs/api/v1/auth/login", {"uid": USER, "password": PASSWORD})["token"]


def marathon(method, path, body=None, **more):
    return call(method, f"/service/marathon/v2{path}", body, TOKEN, **more)


class Bus:
    """The client in a process of its own, and what it said."""

    def __init__(self, query="", token=TOKEN):
        self.said = []
        self.process = subprocess.Popen(
            [NODE, os.path.join(HERE, "eventbus_listen.js"), FOLDER, HOST, str(PORT), EVENTS + query],
            env={"PATH": os.environ["PATH"], "TOKEN": token},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for text in self.process.stdout:
            self.said.append(json.loads(text))

    def events(self, kind=None):
        return [one for one in list(self.said) if "event" in one and kind in (None, one["event"])]

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Stream:
    """The same stream read by hand: (id, type, data) in order."""

    def __init__(self, query="", last=None):
        self.heard = []
        self.line = http.client.HTTPSConnection(HOST, PORT, timeout=60, context=TRUST)
        headers = {"Authorization": f"token={TOKEN}", "Accept": "text/event-stream"}
        if last:
            headers["Last-Event-ID"] = last
        self.line.request("GET", EVENTS + query, None, headers)
        self.answer = self.line.getresponse()
        equal(self.answer.status, 200, "status of the stream")
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        frame = {}
        for text in self.answer:
            text = text.decode().rstrip("\n")
            if not text:
                if "event" in frame:
                    self.heard.append((frame["id"], frame["event"], json.loads(frame["data"])))
                frame = {}
            elif not text.startswith(":"):
                name, value = text.split(": ", 1)
                frame[name] = value


bus, stream = Bus(), Stream()


def attached():
    until("the client's subscription", lambda: [one for one in bus.said if "subscribed" in one], 10)
    until("event_stream_attached", lambda: bus.events("event_stream_attached") and stream.heard, 10)


def refused():
    stranger = Bus(token="")
    try:
        until("a refusal", lambda: [one for one in stranger.said if one.get("error") == 401], 10)
        equal(stranger.events(), [], "events without a login")
    finally:
        stranger.end()


def deployed(change, *actions):
    """Makes a change; the client hears of each step of its deployment until the end. Gives what it heard."""
    start = len(bus.events())
    done = change()
    deployment = done.get("deploymentId") or done["deployments"][0]["id"]

    def mine(kind):
        found = [one["data"] for one in bus.events()[start:] if one["event"] == kind]
        return [data for data in found if data.get("id", data.get("plan", {}).get("id")) == deployment]

    until("deployment_success", lambda: mine("deployment_success"), 60)
    heard = bus.events()[start:]
    told = [action["action"] for data in mine("deployment_info") for action in data["currentStep"]["actions"]]
    over = [action["action"] for data in mine("deployment_step_success") for action in data["currentStep"]["actions"]]
    equal(told, list(actions), "steps that began")
    equal(over, list(actions), "steps that ended")
    changes = [one["data"] for one in heard if one["event"] == "group_change_success"]
    equal([data["groupId"] for data in changes], ["/flow"], "groups that changed")
    return heard


def count(heard, kind, **fields):
    """How many of these there are with such fields."""
    data = [one["data"] for one in heard if one["event"] == kind]
    return len([one for one in data if all(one.get(name) == value for name, value in fields.items())])


def create():
    check = {"protocol": "COMMAND", "command": {"value": "true"}, "intervalSeconds": 1, "delaySeconds": 0, "gracePeriodSeconds": 30}
    body = {"id": ID, "cmd": "sleep 600", "cpus": 0.05, "mem": 16, "instances": 2, "healthChecks": [check]}
    heard = deployed(lambda: marathon("POST", "/apps", body), "StartApplication", "ScaleApplication")
    equal(count(heard, "status_update_event", taskStatus="TASK_RUNNING", appId=ID), 2, "tasks that run")
    equal(count(heard, "instance_changed_event", condition="Provisioned", runSpecId=ID), 2, "instances on offers")
    equal(count(heard, "instance_changed_event", condition="Running", runSpecId=ID), 2, "instances that run")
    equal(count(heard, "add_health_check_event", appId=ID), 1, "checks that came")
    equal(count(heard, "health_status_changed_event", appId=ID, alive=True), 2, "tasks that became healthy")
    equal(count(heard, "instance_health_changed_event", runSpecId=ID, healthy=True), 2, "instances that became healthy")


def scale():
    heard = deployed(lambda: marathon("PUT", f"/apps{ID}", {"instances": 3}), "ScaleApplication")
    equal(count(heard, "status_update_event", taskStatus="TASK_RUNNING", appId=ID), 1, "tasks that run")


def replaced(change):
    heard = deployed(change, "RestartApplication")
    equal(count(heard, "status_update_event", taskStatus="TASK_RUNNING", appId=ID), 3, "new tasks")
    equal(count(heard, "status_update_event", taskStatus="TASK_KILLED", appId=ID), 3, "tasks that ended")
    equal(count(heard, "instance_changed_event", condition="Killed", runSpecId=ID), 3, "instances that ended")
    assert count(heard, "remove_health_check_event", appId=ID) >= 1, "the old version's check went"


def conflict():
    start = len(bus.events())
    marathon("POST", "/apps", {"id": ID, "cmd": "true"}, wanted=(409,))
    failed = until("group_change_failed", lambda: count(bus.events()[start:], "group_change_failed"), 5)
    equal(failed, 1, "changes that failed")


def cancelled():
    start, huge = len(bus.events()), f"{ID}-huge"
    made = marathon("POST", "/apps", {"id": huge, "cmd": "true", "cpus": 100000, "mem": 16})["deployments"][0]["id"]
    marathon("DELETE", f"/deployments/{made}?force=true")
    until("deployment_failed", lambda: count(bus.events()[start:], "deployment_failed", id=made), 10)
    equal(count(bus.events()[start:], "deployment_step_failure"), 1, "steps that failed")
    marathon("DELETE", f"/apps{huge}?force=true")
    until("app_terminated_event", lambda: count(bus.events()[start:], "app_terminated_event", appId=huge), 10)


def unhealthy():
    """The client says what it wants in its address; it knows the older name of one type only."""
    kinds = "?event_type=failed_health_check_event&event_type=unhealthy_task_kill_event&plan-format=light"
    other, sick = Bus(kinds), f"{ID}-sick"
    try:
        until("the subscription", lambda: [one for one in other.said if "subscribed" in one], 10)
        check = {"protocol": "COMMAND", "command": {"value": "false"}, "intervalSeconds": 1, "delaySeconds": 0}
        check |= {"gracePeriodSeconds": 0, "maxConsecutiveFailures": 2}
        body = {"id": sick, "cmd": "sleep 600", "cpus": 0.05, "mem": 16, "healthChecks": [check]}
        marathon("POST", "/apps", body)
        until("unhealthy_task_kill_event", lambda: other.events("unhealthy_task_kill_event"), 60)
        killed = other.events("unhealthy_task_kill_event")[0]["data"]
        equal(killed["appId"], sick, "who was killed")
        assert "status 1" in killed["reason"], killed
        assert len(other.events("failed_health_check_event")) >= 2, other.said
        kinds = {one["event"] for one in other.events()}
        equal(kinds, {"failed_health_check_event", "unhealthy_task_kill_event"}, "types that were asked for")
    finally:
        other.end()
        marathon("DELETE", f"/apps{sick}?force=true")
    until("app_terminated_event", lambda: count(bus.events(), "app_terminated_event", appId=sick), 30)


def pod():
    name, start = f"{ID}-pod", len(bus.events())
    container = {"name": "c", "resources": {"cpus": 0.05, "mem": 16}, "exec": {"command": {"shell": "sleep 600"}}}
    marathon("POST", "/pods", {"id": name, "containers": [container]})
    until("pod_created_event", lambda: count(bus.events()[start:], "pod_created_event"), 5)
    marathon("DELETE", f"/pods{name}?force=true")
    until("pod_deleted_event", lambda: count(bus.events()[start:], "pod_deleted_event"), 5)
    until("app_terminated_event", lambda: count(bus.events()[start:], "app_terminated_event", appId=name), 30)


def delete():
    heard = deployed(lambda: marathon("DELETE", f"/apps{ID}"), "StopApplication")
    equal(count(heard, "status_update_event", taskStatus="TASK_KILLED", appId=ID), 3, "tasks that ended")
    equal(count(heard, "app_terminated_event", appId=ID), 1, "apps that ended")
    equal(count(heard, "remove_health_check_event", appId=ID), 1, "checks that went")


def complete():
    """What the client heard is what was on the stream, in its order, for all types that it knows."""
    known = set(next(one["subscribed"] for one in bus.said if "subscribed" in one))
    first = lambda events: next(i for i, (kind, _) in enumerate(events) if kind == "group_change_success")
    end = lambda events: max(i for i, (kind, data) in enumerate(events) if kind == "app_terminated_event" and data["appId"] == ID)
    until("the end on the stream", lambda: [1 for _, kind, data in list(stream.heard) if kind == "app_terminated_event" and data["appId"] == ID], 5)
    mine = [(one["event"], one["data"]) for one in bus.events()]
    all_of_it = [(kind, data) for _, kind, data in list(stream.heard) if kind in known]
    mine, all_of_it = mine[first(mine) : end(mine) + 1], all_of_it[first(all_of_it) : end(all_of_it) + 1]
    assert len(mine) > 60, f"only {len(mine)} events"
    equal(mine, all_of_it, "what the client heard")
    numbers = [int(id.split("-")[1]) for id, _, _ in stream.heard]
    # A kill has a second name, which is numbered and goes to those who ask for it.
    left_out = [n for n in range(numbers[0], numbers[-1]) if n not in numbers]
    kills = [id for id, kind, _ in stream.heard if kind == "unhealthy_instance_kill_event"]
    equal((sorted(set(numbers)), len(left_out)), (numbers, len(kills)), "numbers on the stream, and how many are left out")


def resumed():
    """One who lost the connection goes on right behind what it heard last; with an id that nobody knows it is told of a gap."""
    known = list(stream.heard)
    again = Stream(last=known[10][0])
    until("what came after", lambda: len(again.heard) >= len(known) - 11, 10)
    equal(again.heard[: len(known) - 11], known[11:], "what came after")
    lost = Stream(last="1-1")
    until("a gap", lambda: lost.heard and lost.heard[0][1] == "gap", 10)


flow.step("attached through the gateway", attached)
flow.step("without a login nothing is heard", refused)
flow.step("create", create)
flow.step("scale", scale)
flow.step("update", lambda: replaced(lambda: marathon("PUT", f"/apps{ID}", {"env": {"FLOW": "2"}})))
flow.step("restart", lambda: replaced(lambda: marathon("POST", f"/apps{ID}/restart")))
flow.step("a change that is refused", conflict)
flow.step("a deployment that is cancelled", cancelled)
flow.step("a check that fails, by two types that are asked for", unhealthy)
flow.step("a pod", pod)
flow.step("delete", delete)
flow.step("the client heard all that was on the stream", complete)
flow.step("resumed by Last-Event-ID", resumed)
bus.end()
flow.end()
