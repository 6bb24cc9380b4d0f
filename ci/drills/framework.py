"""A framework by hand: the v1 scheduler API in JSON, one stream of events and calls beside it."""

import http.client
import json
import queue
import threading
import time


class Framework:
    """Subscribes; gives offers and statuses in turn and acknowledges statuses."""

    def __init__(self, host, token, name="drill", role="*"):
        self.host, self.token, self.events, self.statuses = host, token, queue.Queue(), []
        self.rescinded = set()
        self.connection = http.client.HTTPConnection(host, 5050, timeout=60)
        info = {"user": "root", "name": name, "roles": [role], "failover_timeout": 60,
                "capabilities": [{"type": "MULTI_ROLE"}, {"type": "PARTITION_AWARE"}, *([] if role == "*" else [{"type": "RESERVATION_REFINEMENT"}])]}
        body = json.dumps({"type": "SUBSCRIBE", "subscribe": {"framework_info": info}})
        self.connection.request("POST", "/api/v1/scheduler", body, self.headers())
        self.answer = self.connection.getresponse()
        if self.answer.status != 200:
            raise RuntimeError(f"SUBSCRIBE: {self.answer.status} {self.answer.read()}")
        self.stream = self.answer.getheader("Mesos-Stream-Id")
        threading.Thread(target=self.listen, daemon=True).start()
        self.id = self.next("SUBSCRIBED")["subscribed"]["framework_id"]

    def headers(self):
        """Of every call."""
        return {"Content-Type": "application/json", "Accept": "application/json", "Authorization": f"token={self.token}"}

    def listen(self):
        """Reads the stream, record by record."""
        try:
            while True:
                length = b""
                while not length.endswith(b"\n"):
                    byte = self.answer.read(1)
                    if not byte:
                        return
                    length += byte
                record = b""
                while len(record) < int(length):
                    record += self.answer.read(int(length) - len(record))
                self.take(json.loads(record))
        except (OSError, ValueError, http.client.HTTPException):
            return

    def take(self, event):
        """Keeps an event; a status is acknowledged at once."""
        if event["type"] == "UPDATE":
            status = event["update"]["status"]
            self.statuses.append(status)
            if "uuid" in status:
                self.call("ACKNOWLEDGE", {"agent_id": status["agent_id"], "task_id": status["task_id"], "uuid": status["uuid"]})
        elif event["type"] == "RESCIND":
            self.rescinded.add(event["rescind"]["offer_id"]["value"])
        elif event["type"] != "HEARTBEAT":
            self.events.put(event)

    def next(self, kind, seconds=20):
        """The next event of a kind; others are dropped."""
        end = time.monotonic() + seconds
        while True:
            event = self.events.get(timeout=max(0.01, end - time.monotonic()))
            if event["type"] == kind:
                return event

    def call(self, kind, body):
        """One call beside the stream."""
        connection = http.client.HTTPConnection(self.host, 5050, timeout=10)
        try:
            message = {"type": kind, "framework_id": self.id, kind.lower(): body}
            connection.request("POST", "/api/v1/scheduler", json.dumps(message), {**self.headers(), "Mesos-Stream-Id": self.stream})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 202:
                raise RuntimeError(f"{kind}: {answer.status} {text}")
        finally:
            connection.close()

    def accept(self, make, **least):
        """Takes the next offer that has at least so much of each resource with the operations that `make` gives for it; declines smaller ones."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for offer in (offers := self.next("OFFERS")["offers"]["offers"]):
                has = lambda name: sum(one["scalar"]["value"] for one in offer["resources"] if one["name"] == name)
                if all(has(name) >= value for name, value in least.items()):
                    self.call("ACCEPT", {"offer_ids": [offer["id"]], "operations": make(offer), "filters": {"refuse_seconds": 0}})
                    return offer
            self.call("DECLINE", {"offer_ids": [offer["id"] for offer in offers], "filters": {"refuse_seconds": 0.2}})
        raise TimeoutError(f"no offer of {least}, the last was of {offers[-1]['resources']}")

    def offer(self, wanted, seconds=20):
        """The next offer that has room for what is wanted; others are declined."""
        end = time.monotonic() + seconds
        while True:
            offer = self.next("OFFERS", max(0.1, end - time.monotonic()))["offers"]["offers"][0]
            has = {one["name"]: one.get("scalar", {}).get("value", 0) for one in offer["resources"]}
            if offer["id"]["value"] in self.rescinded:
                continue
            if all(has.get(kind, 0) >= value for kind, value in wanted.items()):
                return offer
            self.call("DECLINE", {"offer_ids": [offer["id"]], "filters": {"refuse_seconds": 0}})

    def launch(self, tasks, seconds=20, executor=None):
        """Launches tasks (name to (resources, the rest of its TaskInfo)) out of one offer; with an executor (resources, the rest) as a pod."""
        every = [resources for resources, _ in tasks.values()] + ([executor[0]] if executor else [])
        offer = self.offer({kind: sum(one.get(kind, 0) for one in every) for kind in ("cpus", "mem", "disk")}, seconds)
        infos = [{"name": name, "task_id": {"value": name}, "agent_id": offer["agent_id"], "resources": scalars(resources), **rest}
                 for name, (resources, rest) in tasks.items()]
        operation = {"type": "LAUNCH", "launch": {"task_infos": infos}}
        if executor:
            info = {"type": "DEFAULT", "framework_id": self.id, "resources": scalars(executor[0]), **executor[1]}
            operation = {"type": "LAUNCH_GROUP", "launch_group": {"executor": info, "task_group": {"tasks": infos}}}
        self.call("ACCEPT", {"offer_ids": [offer["id"]], "operations": [operation], "filters": {"refuse_seconds": 0}})
        return offer

    def states(self, task):
        """The states of a task so far."""
        return [status["state"] for status in self.statuses if status["task_id"]["value"] == task]

    def last(self, task):
        """The newest status of a task."""
        found = [status for status in self.statuses if status["task_id"]["value"] == task]
        return found[-1] if found else {}


def scalars(resources):
    """Resources of the role `*`, allocated."""
    return [{"name": name, "type": "SCALAR", "scalar": {"value": value}, "allocation_info": {"role": "*"}} for name, value in resources.items()]
