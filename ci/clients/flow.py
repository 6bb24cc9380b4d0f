"""A flow is a list of steps with names; each passes or fails and the flow goes on. Prints one line a step and a closing count."""

import sys
import time
import traceback


class Flow:
    """Counts the steps of one client."""

    def __init__(self, client):
        self.client, self.passed, self.failed = client, 0, 0

    def step(self, name, body):
        """Runs one step; returns what it returns, or None after a failure."""
        began = time.monotonic()
        try:
            result = body()
        except Exception as error:  # a step may fail in any way that a client can
            self.failed += 1
            print(f"FAIL {self.client}: {name}: {type(error).__name__}: {error}", flush=True)
            traceback.print_exc(limit=3)
            return None
        self.passed += 1
        print(f"ok   {self.client}: {name} ({time.monotonic() - began:.2f} s)", flush=True)
        return True if result is None else result

    def end(self):
        """Prints the count and ends the program."""
        print(f"{self.client}: {self.passed} passed, {self.failed} failed", flush=True)
        sys.exit(1 if self.failed or not self.passed else 0)


def until(what, condition, seconds=30):
    """Waits until the condition holds and returns its value; fails after so many seconds, naming what was waited for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise TimeoutError(f"not within {seconds} s: {what}")


def equal(found, wanted, what):
    """Fails where two values differ."""
    if found != wanted:
        raise AssertionError(f"{what}: found {found!r}, wanted {wanted!r}")
