"""Mesos' v1 scheduler and operator APIs as the client pymesos drives them.

usage: pymesos_flow.py HOST:PORT [PRINCIPAL SECRET-FILE]
Without credentials the cluster is taken to be open, and the operator stream, for which this client knows no credentials, is tried too.
"""

import getpass
import logging
import sys
import threading
import time
import uuid
from queue import Empty, Queue

from flow import Flow, equal, until
from pymesos import MesosOperatorMasterDriver, MesosSchedulerDriver, OperatorMaster, Scheduler

logging.getLogger("pymesos").setLevel(logging.WARNING)
MASTER = sys.argv[1]
CREDENTIALS = {}
if len(sys.argv) > 3:
    with open(sys.argv[3], encoding="ascii") as secret:
        CREDENTIALS = {"principal": sys.argv[2], "secret": secret.read().strip()}
OPEN = not CREDENTIALS


class Recorder(Scheduler):
    """Keeps what happens; launches the tasks that wait when an offer holds enough."""

    def __init__(self):
        self.offers, self.updates, self.wanted, self.declined = [], [], Queue(), 0
        self.registered_as = self.error_text = None
        self.beats = 0

    def registered(self, driver, framework_id, master_info):
        self.registered_as = framework_id["value"]

    def processHeartBeat(self, driver):
        self.beats += 1

    def resourceOffers(self, driver, offers):
        for offer in offers:
            self.offers.append(offer)
            try:
                task = self.wanted.get_nowait()
            except Empty:
                self.declined += 1
                driver.declineOffer(offer["id"], {"refuse_seconds": 60})
                continue
            task["agent_id"] = offer["agent_id"]
            driver.launchTasks(offer["id"], [task], {"refuse_seconds": 0})

    def statusUpdate(self, driver, update):
        self.updates.append(update)

    def error(self, driver, message):
        self.error_text = message

    def states(self, task_id):
        return [update["state"] for update in self.updates if update["task_id"]["value"] == task_id]


class Watcher(OperatorMaster):
    """Keeps the operator stream's events."""

    def __init__(self):
        self.events = []

    def taskAdded(self, task_info):
        self.events.append(("taskAdded", task_info))

    def taskUpdated(self, task_info):
        self.events.append(("taskUpdated", task_info))

    def frameworkAdded(self, framework_info):
        self.events.append(("frameworkAdded", framework_info))


def task(command):
    name = f"flow-{uuid.uuid4().hex[:8]}"
    scalar = lambda name, value: {"name": name, "type": "SCALAR", "scalar": {"value": value}}
    return {
        "task_id": {"value": name},
        "name": name,
        "resources": [scalar("cpus", 0.1), scalar("mem", 32)],
        "command": {"shell": True, "value": command},
        "labels": {"labels": [{"key": "flow", "value": "pymesos"}]},
    }


flow = Flow("pymesos" if OPEN else "pymesos-secured")
scheduler = Recorder()
framework = {"user": getpass.getuser(), "name": "flow", "hostname": "localhost", "checkpoint": True}
driver = MesosSchedulerDriver(scheduler, framework, MASTER, use_addict=False, **CREDENTIALS)
threading.Thread(target=driver.run, daemon=True).start()


def launch(command):
    wanted = task(command)
    scheduler.wanted.put(wanted)
    driver.reviveOffers()
    return wanted["task_id"]["value"]


def subscribe():
    until("SUBSCRIBED", lambda: scheduler.registered_as)
    equal(driver.version, "1.11.0", "version")


def finishes():
    name = launch("echo hello from the flow")
    until("TASK_FINISHED", lambda: "TASK_FINISHED" in scheduler.states(name))
    states = [state for state in scheduler.states(name) if state != "TASK_STARTING"]
    equal(states, ["TASK_RUNNING", "TASK_FINISHED"], "states")
    return name


def fails():
    name = launch("exit 3")
    until("TASK_FAILED", lambda: "TASK_FAILED" in scheduler.states(name))
    last = scheduler.updates[-1]
    assert "status 3" in last.get("message", ""), last.get("message")


def sleeper():
    name = launch("sleep 600")
    until("TASK_RUNNING", lambda: "TASK_RUNNING" in scheduler.states(name))
    return name


def kill(name):
    driver.killTask({"value": name})
    until("TASK_KILLED", lambda: "TASK_KILLED" in scheduler.states(name), 15)


def reconciled(tasks, wanted):
    scheduler.updates.clear()
    driver.reconcileTasks(tasks)
    answer = until("the answer", lambda: [one for one in scheduler.updates if one.get("reason") == "REASON_RECONCILIATION"])
    for one in answer:
        assert "uuid" not in one, "an answer to RECONCILE has no uuid"
    equal({one["task_id"]["value"]: one["state"] for one in answer}, wanted, "answers")


def suppressed():
    driver.suppressOffers()
    time.sleep(0.2)
    before = len(scheduler.offers)
    time.sleep(0.5)
    equal(len(scheduler.offers), before, "offers while suppressed")
    driver.reviveOffers()
    until("an offer after REVIVE", lambda: len(scheduler.offers) > before)


flow.step("subscribe", subscribe)
flow.step("offers arrive", lambda: until("an offer", lambda: scheduler.offers))
flow.step("launch echo: RUNNING, FINISHED", finishes)
flow.step("launch exit 3: FAILED with the status", fails)
running = flow.step("launch sleep: RUNNING", sleeper)
flow.step("heartbeats", lambda: until("a heartbeat", lambda: scheduler.beats, 20))
flow.step("reconcile explicitly", lambda: reconciled([{"task_id": {"value": running}}], {running: "TASK_RUNNING"}))
flow.step("reconcile implicitly", lambda: reconciled([], {running: "TASK_RUNNING"}))
flow.step("reconcile an unknown task", lambda: reconciled([{"task_id": {"value": "nobody"}}], {"nobody": "TASK_LOST"}))
flow.step("suppress and revive", suppressed)

if OPEN:
    watcher = Watcher()
    operator = MesosOperatorMasterDriver(MASTER, watcher)
    threading.Thread(target=operator.run, daemon=True).start()
    flow.step("operator stream: subscribed", lambda: until("the stream", lambda: operator.connected))
    observed = flow.step("operator stream: a task is launched", sleeper)
    seen = lambda *words: [event for event in watcher.events if all(word in str(event) for word in words)]
    flow.step("operator stream: TASK_ADDED", lambda: until("taskAdded", lambda: seen("taskAdded", observed)))
    flow.step("operator stream: TASK_UPDATED", lambda: until("RUNNING", lambda: seen("taskUpdated", observed, "TASK_RUNNING")))
    flow.step("operator: GET_HEALTH", lambda: equal(operator.getHealth()["get_health"]["healthy"], True, "healthy"))
    flow.step("operator: GET_VERSION", lambda: equal(operator.getVersion()["get_version"]["version_info"]["version"], "1.11.0", "version"))
    agents = lambda: operator.getAgents()["get_agents"]["agents"]
    flow.step("operator: GET_AGENTS", lambda: equal(len(agents()), 1, "agents"))
    tasks = lambda: operator.getTasks()["get_tasks"]["tasks"]
    flow.step("operator: GET_TASKS", lambda: [one for one in tasks() if one["task_id"]["value"] == observed][0])
    flow.step("kill the observed task", lambda: kill(observed))
    flow.step("operator stream: the death", lambda: until("KILLED", lambda: seen(observed, "TASK_KILLED")))

flow.step("kill sleep: KILLED", lambda: kill(running))
left = flow.step("launch sleep for teardown", sleeper)


def teardown():
    driver.stop()
    # A new framework does not see the old one's tasks, and the old id is dead.
    other = Recorder()
    dead = dict(framework, id={"value": scheduler.registered_as})
    again = MesosSchedulerDriver(other, dead, MASTER, use_addict=False, failover=True, **CREDENTIALS)
    threading.Thread(target=again.run, daemon=True).start()
    message = until("ERROR for a removed framework", lambda: other.error_text)
    again.stop()
    assert "removed" in message.lower() or "completed" in message.lower(), message


flow.step("teardown: the framework's id is dead", teardown)
flow.end()
