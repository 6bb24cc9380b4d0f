"""The original command line `dcos` (Python, dcoscli 0.6.1) as its flows use it: a home of its own, the gateway of the first argument, an account.

Arguments of each flow: GATEWAY_URL USER PASSWORD-FILE.
"""

import json
import os
import re
import subprocess
import sys
import tempfile

from flow import equal

URL = sys.argv[1].rstrip("/")
USER, PASSWORD_FILE = sys.argv[2], os.path.abspath(sys.argv[3])
CLIENT = os.path.join(os.path.dirname(sys.executable), "dcos")
HOME = tempfile.mkdtemp(prefix="dcos-flow-")


def environment(home):
    """Nothing of the caller's: neither an earlier cluster nor a proxy."""
    bin_folder = os.path.dirname(sys.executable)
    return {
        "HOME": home,
        "DCOS_DIR": os.path.join(home, ".dcos"),
        "PATH": f"{bin_folder}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "NO_PROXY": "*",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def dcos(*arguments, home=HOME, code=0, given=None):
    """Runs the client with `given` on a pipe, compares its exit code, and returns what it printed."""
    source = {"stdin": subprocess.DEVNULL} if given is None else {"input": given}
    done = subprocess.run(
        [CLIENT, *arguments], env=environment(home), **source, capture_output=True, text=True, timeout=90, check=False
    )
    shown = f"dcos {' '.join(arguments)}: {done.stdout}{done.stderr}"
    equal(done.returncode, code, f"exit code of {shown}")
    assert "Traceback" not in done.stderr, shown
    return done.stdout + done.stderr


def contains(text, *words):
    for word in words:
        assert word in text, f"{word!r} is not in {text!r}"


def attached(home=HOME):
    clusters = json.loads(dcos("cluster", "list", "--json", home=home))
    equal(len(clusters), 1, "clusters")
    return clusters[0]


def setup(url, *options, home=HOME):
    dcos("cluster", "setup", url, f"--username={USER}", f"--password-file={PASSWORD_FILE}", *options, home=home)
    cluster = attached(home)
    equal(cluster["url"].rstrip("/"), url.rstrip("/"), "the cluster's address")
    # The client forgets clusters whose id has another form.
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", cluster["cluster_id"]), cluster
    return cluster
