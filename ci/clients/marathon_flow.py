"""The Marathon v2 interface as the client marathon 0.13 drives it.

usage: marathon_flow.py BASE_URL [USER PASSWORD-FILE]
"""

import sys
import threading
import uuid

from flow import Flow, equal, until
from marathon import MarathonClient
from marathon.exceptions import MarathonHttpError, NotFoundError
from marathon.models import MarathonApp

BASE = sys.argv[1]
CREDENTIALS = {}
if len(sys.argv) > 3:
    with open(sys.argv[3], encoding="utf-8") as secret:
        CREDENTIALS = {"username": sys.argv[2], "password": secret.read().strip()}

flow = Flow("marathon" if not CREDENTIALS else "marathon-secured")
client = MarathonClient(BASE, timeout=10, **CREDENTIALS)
ID = f"/flow/sleep-{uuid.uuid4().hex[:6]}"
events = []


def listen():
    # The stream is read on a client of its own, for each holds one connection.
    stream = MarathonClient(BASE, timeout=None, **CREDENTIALS)
    for event in stream.event_stream():
        events.append(event)


def seen(kind, start=0):
    return [event for event in events[start:] if getattr(event, "event_type", None) == kind]


def deployed(change):
    """Makes a change and waits for the end of its deployment, on the stream and in the list."""
    start = len(events)
    change()
    until("deployment_success on the stream", lambda: seen("deployment_success", start), 40)
    until("no deployment", lambda: not client.list_deployments(), 10)


def running(count):
    tasks = [task for task in client.list_tasks(ID) if task.state == "TASK_RUNNING"]
    return tasks if len(tasks) == count else None


def info():
    found = client.get_info()
    equal(found.name, "marathon", "name")
    assert found.version, "a version"
    assert client.get_leader(), "a leader"
    assert client.ping(), "pong"


def create():
    app = MarathonApp(cmd="sleep 600", cpus=0.05, mem=16, instances=1, labels={"flow": "marathon"})
    deployed(lambda: client.create_app(ID, app))
    until("one running task", lambda: running(1))


def duplicate():
    try:
        client.create_app(ID, MarathonApp(cmd="sleep 600", cpus=0.05, mem=16))
    except MarathonHttpError as error:
        equal(error.status_code, 409, "status")
        return
    raise AssertionError("a second app of one id was taken")


def listed():
    found = [app for app in client.list_apps() if app.id == ID]
    equal(len(found), 1, "apps of the id")
    equal(found[0].cmd, "sleep 600", "cmd")
    equal(client.get_app(ID).tasks_running, 1, "tasksRunning")


def scale():
    deployed(lambda: client.scale_app(ID, instances=3))
    until("three running tasks", lambda: running(3))
    deployed(lambda: client.scale_app(ID, delta=-1))
    until("two running tasks", lambda: running(2))


def versions():
    before = client.list_versions(ID)
    assert len(before) >= 3, before
    equal(client.get_version(ID, before[0]).id, ID, "id of a version")


def update():
    old = {task.id for task in running(2)}
    deployed(lambda: client.update_app(ID, MarathonApp(env={"FLOW": "2"})))
    new = until("two new tasks", lambda: running(2))
    assert not old & {task.id for task in new}, "a new version has new tasks"
    equal(client.get_app(ID).env, {"FLOW": "2"}, "env")


def restart():
    old = {task.id for task in running(2)}
    deployed(lambda: client.restart_app(ID))
    new = until("two restarted tasks", lambda: running(2))
    assert not old & {task.id for task in new}, "restarted tasks are new"


def kill():
    old = {task.id for task in running(2)}
    client.kill_task(ID, sorted(old)[0])
    until("a replacement", lambda: (found := running(2)) and len({task.id for task in found} & old) == 1)


def queue():
    huge = f"{ID}-huge"
    client.create_app(huge, MarathonApp(cmd="sleep 600", cpus=100000, mem=16))
    until("the app in the queue", lambda: [item for item in client.list_queue() if item.app.id == huge])
    client.delete_app(huge, force=True)
    until("the queue to be empty", lambda: not [item for item in client.list_queue() if item.app.id == huge])


def refused():
    try:
        client.create_app(f"{ID}-bad", MarathonApp(cmd="true", cpus=-1, mem=16))
    except MarathonHttpError as error:
        equal(error.status_code, 422, "status")
        return
    raise AssertionError("an app of fewer than no processors was taken")


def delete():
    deployed(lambda: client.delete_app(ID))
    until("no tasks", lambda: not [task for task in client.list_tasks() if task.app_id == ID])
    try:
        client.get_app(ID)
    except NotFoundError:
        return
    raise AssertionError("the app is still there")


threading.Thread(target=listen, daemon=True).start()
flow.step("info, leader, ping", info)
flow.step("event stream attached", lambda: until("the stream", lambda: seen("event_stream_attached"), 10))
flow.step("create", create)
flow.step("create again is a conflict", duplicate)
flow.step("list and show", listed)
flow.step("an invalid app is refused", refused)
flow.step("scale up and down", scale)
flow.step("versions", versions)
flow.step("update rolls", update)
flow.step("restart", restart)
flow.step("kill a task: replaced", kill)
flow.step("queue", queue)
flow.step("delete", delete)
flow.step("the stream told of statuses", lambda: until("status_update_event", lambda: seen("status_update_event"), 2))
flow.end()
