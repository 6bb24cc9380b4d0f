"""Malformed and hostile requests, made from a seed: what `hostile` sends. Each case gives raw bytes for one connection and what may come back."""

import base64
import json
import struct

JSON = "application/json"
PROTOBUF = "application/x-protobuf"
COSMOS = "application/vnd.dcos.package.{}-request+json;charset=utf-8;version=v1"
APP = {
    "id": "/hostile", "cmd": "sleep 1000", "cpus": 0.01, "mem": 16, "instances": 0, "labels": {"a": "b"}, "env": {"A": "b"},
    "constraints": [["hostname", "UNIQUE"]], "portDefinitions": [{"port": 0, "protocol": "tcp", "labels": {"VIP_0": "/x:80"}}],
    "healthChecks": [{"protocol": "MESOS_HTTP", "path": "/", "portIndex": 0, "gracePeriodSeconds": 5}],
    "upgradeStrategy": {"minimumHealthCapacity": 0.5, "maximumOverCapacity": 0.5}, "fetch": [{"uri": "http://127.0.0.1:1/x"}],
}
CALLS = [
    {"type": "ACCEPT", "framework_id": {"value": "nobody"}, "accept": {"offer_ids": [{"value": "o"}], "operations": [
        {"type": "LAUNCH", "launch": {"task_infos": [{"name": "t", "task_id": {"value": "t"}, "agent_id": {"value": "a"}, "resources": [
            {"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.1}}]}]}}], "filters": {"refuse_seconds": 5.0}}},
    {"type": "KILL", "framework_id": {"value": "nobody"}, "kill": {"task_id": {"value": "t"}}},
    {"type": "RECONCILE", "framework_id": {"value": "nobody"}, "reconcile": {"tasks": [{"task_id": {"value": "t"}}]}},
    {"type": "SUBSCRIBE", "subscribe": {"framework_info": {"name": "n", "user": "u", "id": {"value": "nobody"}, "roles": ["../.."]}}},
]
OPERATOR = [
    {"type": "UPDATE_WEIGHTS", "update_weights": {"weight_infos": [{"role": "a b/..", "weight": 1.5}]}},
    {"type": "MARK_AGENT_GONE", "mark_agent_gone": {"agent_id": {"value": "nobody"}}},
    {"type": "READ_FILE", "read_file": {"path": "/../../etc/shadow", "offset": 0}},
    {"type": "GET_METRICS", "get_metrics": {"timeout": {"nanoseconds": 1}}},
]
USER = {"password": "a-long-drill-pass1", "description": "hostile"}
# method, path, media type, a body whose shape is right; the paths of each port and what is read on it.
WRITES = {
    "master": [("POST", "/api/v1/scheduler", JSON, call) for call in CALLS] + [("POST", "/api/v1", JSON, call) for call in OPERATOR]
    + [("PUT", "/weights", JSON, [{"role": "r", "weight": 1.0}]), ("POST", "/teardown", "application/x-www-form-urlencoded", "frameworkId=nobody")],
    "agent": [("POST", "/api/v1", JSON, call) for call in OPERATOR]
    + [("POST", "/api/v1/executor", JSON, {"type": "SUBSCRIBE", "framework_id": {"value": "f"}, "executor_id": {"value": "e"}, "subscribe": {}})],
    "services": [("POST", "/v2/apps", JSON, APP), ("PUT", "/v2/apps/hostile", JSON, APP), ("PUT", "/v2/apps", JSON, [APP]),
                 ("PATCH", "/v2/apps/hostile", JSON, {"instances": 0}), ("POST", "/v2/apps/nobody/restart", JSON, {}),
                 ("POST", "/v2/tasks/delete", JSON, {"ids": ["nobody"]}), ("DELETE", "/v2/deployments/nobody", JSON, {}),
                 ("PUT", "/v2/groups", JSON, {"id": "/hostile-group", "apps": []}), ("DELETE", "/v2/queue/nobody/delay", JSON, {})],
    "catalog": [("POST", f"/package/{what.replace('.', '/')}", COSMOS.format(what), body) for what, body in (
        ("search", {"query": "*"}), ("describe", {"packageName": "nobody"}), ("list-versions", {"packageName": "nobody"}), ("list", {}),
        ("render", {"packageName": "hello", "options": {"service": {"instances": 0}}}), ("install", {"packageName": "nobody", "options": {}}),
        ("uninstall", {"packageName": "nobody"}), ("repository.add", {"name": "r", "uri": "http://127.0.0.1:1/"}))],
    "identity": [("POST", "/acs/api/v1/auth/login", JSON, {"uid": "nobody", "password": "nothing"}), ("PUT", "/acs/api/v1/users/hostile", JSON, USER),
                 ("PATCH", "/acs/api/v1/users/nobody", JSON, {"description": "x"}), ("POST", "/acs/api/v1/join-tokens", JSON, {"role": "agent"}),
                 ("POST", "/internal/v1/join", JSON, {"token": "x", "csr": "y"}), ("POST", "/internal/v1/certificates", JSON, {"csr": "y"}),
                 ("PUT", "/acs/api/v1/acls/dcos:nothing/users/nobody/full", JSON, {})],
    "gateway": [("POST", "/acs/api/v1/auth/login", JSON, {"uid": "nobody", "password": "nothing"}), ("POST", "/service/marathon/v2/apps", JSON, APP),
                ("POST", "/mesos/api/v1", JSON, OPERATOR[1]), ("POST", "/package/describe", COSMOS.format("describe"), {"packageName": "nobody"})],
    "discovery": [("POST", "/v1/enumerate", JSON, {})],
}
READS = {
    "master": ["/state", "/tasks", "/frameworks", "/slaves", "/roles", "/metrics/snapshot", "/flags", "/nothing"],
    "agent": ["/state", "/files/read", "/files/browse", "/files/download", "/containers", "/monitor/statistics", "/nothing"],
    "services": ["/v2/apps", "/v2/apps/nobody", "/v2/apps/nobody/versions/x", "/v2/tasks", "/v2/deployments", "/v2/queue", "/v2/info", "/nothing"],
    "catalog": ["/package/search", "/capabilities", "/nothing"],
    "identity": ["/acs/api/v1/users", "/acs/api/v1/users/nobody", "/acs/api/v1/auth/jwks", "/internal/v1/policy", "/acs/api/v1/members", "/nothing"],
    "gateway": ["/mesos/state", "/service/nobody/", "/service/marathon/v2/apps", "/agent/nobody/state", "/acs/api/v1/users", "/nothing"],
    "discovery": ["/v1/version", "/v1/config", "/v1/hosts/nobody", "/v1/services/nobody", "/v1/enumerate", "/v1/vips", "/nothing"],
}
# Where anybody may read.
OPEN = ("/health", "/version", "/redirect", "/capabilities", "/ping", "/acs/api/v1/auth", "/acs/api/v1/uiconfig", "/internal/v1/cluster", "/login", "/pkgpanda")
ODD_VALUES = [
    None, True, -1, 0, 2**31, 2**63, 2**64, -(2**63) - 1, 1e308, 0.1234567891, "", "\0", "x" * 5000, "../../../etc/passwd", "\ud83d\ude00", "%s%n",
    "9" * 400, [], {}, [[]], {"": ""}, [None], {"value": None}, {"__proto__": {}}, ["a"] * 300,
]
ODD_PATHS = [
    "/../../../../etc/passwd", "/..%2f..%2f..%2fetc%2fshadow", "/%2e%2e/%2e%2e/etc/passwd", "/%00", "/%", "/%zz", "/%c0%af", "//", "///..//", "/.", "/" + "a/" * 2000,
    "/" + "x" * 9000, "/v2/apps/..", "/v2/apps//../../x", "/%252e%252e/", "/\\..\\..\\x", "/files/read?path=/../../../etc/shadow",
    "/files/read?path=/slave/log/../../../../etc/shadow", "/files/download?path=%2fetc%2fshadow", "/files/browse?path=/",
    "/files/read?path=/slave/log&offset=-99999999999999999999&length=99999999999999999999", "/files/read?path=/slave/log&offset=NaN&length=1e9",
    "/files/read?path=" + "%2e%2e%2f" * 500, "/files/read?path=%00", "/state?jsonp=" + "alert(1)%0d%0aX:y", "/tasks?limit=-1&offset=99999999999999999999",
    "/tasks?limit=NaN&order=sideways", "/?" + "&".join(f"a{n}=b" for n in range(3000)), "/v2/apps?embed=" + "apps.tasks&embed=" * 300, "/v2/tasks?status=\u2603".encode().decode("latin-1"),
]


def head(method, path, headers, host="plenum"):
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"] + [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


class Case:
    """One connection: what is sent, and which answers are right. `silent` is whether no answer at all is right, too."""

    def __init__(self, name, data, path="", right=range(400, 500), silent=False, answers=1, end=False):
        self.name, self.data, self.path, self.right, self.silent, self.answers, self.end = name, data, path, right, silent, answers, end


class Rubbish:
    """Cases for one port, from a seed; `token` is what proves who is calling, or none."""

    def __init__(self, rng, kind, token):
        self.rng, self.kind, self.token = rng, kind, token
        self.auth = [("Authorization", f"token={token}")] if token else []
        self.makers = [getattr(self, name) for name in sorted(dir(self)) if name.startswith("case_")]
        self.turn = 0

    def case(self):
        """The next case: every maker has its turn, what it makes is random."""
        make = self.makers[self.turn % len(self.makers)]
        self.turn += 1
        return make()

    def write(self):
        return self.rng.choice(WRITES[self.kind])

    def sent(self, name, body, media=None, path=None, method=None, headers=(), right=range(400, 500), **more):
        usual, place, kind, _ = self.write()
        method, path, media = method or usual, path or place, kind if media is None else media
        typed = [("Content-Type", media)] if media else []
        data = head(method, path, [*self.auth, *typed, ("Content-Length", len(body)), *headers]) + body
        return Case(f"{name} {method} {path[:60]}", data, path, right, **more)

    def like(self, name, change, right=(*range(400, 500), 501)):
        """A right body with something done to its text."""
        method, path, media, body = self.write()
        text = body if isinstance(body, str) else json.dumps(change(body) if callable(change) else body)
        return self.sent(name, text.encode("utf-8", "surrogatepass"), media, path, method, right=right)

    def twisted(self, value):
        """The value with one part replaced by something odd."""
        odd = self.rng.choice(ODD_VALUES)
        if isinstance(value, dict) and value and self.rng.random() < 0.9:
            key = self.rng.choice(sorted(value))
            return {**value, key: self.twisted(value[key]) if self.rng.random() < 0.5 else odd}
        if isinstance(value, list) and value and self.rng.random() < 0.8:
            at = self.rng.randrange(len(value))
            return [*value[:at], self.twisted(value[at]), *value[at + 1:]]
        return odd

    # What follows may be taken where it happens to make sense; never more than 4xx or 501 where it does not.
    VALID_TOO = (*range(200, 300), *range(400, 500), 501)

    def case_json_wrong_types(self):
        return self.like("wrong types", self.twisted, self.VALID_TOO)

    def case_json_twisted_twice(self):
        return self.like("wrong types twice", lambda body: self.twisted(self.twisted(body)), self.VALID_TOO)

    def case_json_truncated(self):
        method, path, media, body = self.write()
        text = json.dumps(body)
        text = text[:self.rng.randrange(1, max(2, len(text) - 1))]
        return self.sent("truncated JSON", text.encode(), media, path, method, right=self.VALID_TOO if not isinstance(body, dict) else range(400, 500))

    def case_json_not_numbers(self):
        word = self.rng.choice(["NaN", "Infinity", "-Infinity", "1e999", "0x10", "01", "1.", "+1"])
        return self.sent("no number", ('{"id": "/x", "instances": %s, "type": %s}' % (word, word)).encode(), right=self.VALID_TOO if word == "1e999" else range(400, 500))

    def case_json_deep(self):
        depth = self.rng.choice([200, 10_000, 200_000])
        opening, closing = self.rng.choice([("[", "]"), ('{"a":', "}")])
        # Keys that nobody knows are passed over, whatever is in them: an object may be taken. A list is never what was asked for.
        right = range(400, 500) if opening == "[" else self.VALID_TOO
        return self.sent("deep nesting", (opening * depth + "1" + closing * depth).encode(), right=right)

    def case_json_doubled_keys(self):
        return self.sent("doubled keys", b'{"id": "/a", "id": 7, "type": "KILL", "type": [], "uid": 1, "uid": {}}', right=self.VALID_TOO)

    def case_json_not_text(self):
        return self.sent("no UTF-8", b'{"id": "' + self.rng.randbytes(40).replace(b'"', b"\xff") + b'\xff"}')

    def case_json_many_keys(self):
        keys = {f"k{n}": n for n in range(self.rng.choice([1000, 30_000]))}
        return self.sent("many keys", json.dumps(keys).encode(), right=self.VALID_TOO)

    def case_bytes_as_json(self):
        return self.sent("bytes as JSON", b"\xfe" + self.rng.randbytes(self.rng.randrange(1, 3000)))

    def case_bytes_as_protobuf(self):
        return self.sent("bytes as protobuf", self.rng.randbytes(self.rng.randrange(1, 3000)), PROTOBUF, right=self.VALID_TOO)

    def case_protobuf_truncated(self):
        # A length that goes on beyond the end, at a random depth of messages in messages.
        body = b"\x08\x02"
        for _ in range(self.rng.choice([1, 20, 3000])):
            body = bytes([self.rng.randrange(1, 15) << 3 | 2]) + b"\xff\xff\xff\xff\x0f" + body
        return self.sent("truncated protobuf", body, PROTOBUF)

    def case_recordio(self):
        body = self.rng.choice([b"-1\n{}", b"99999999999999999999\n{}", b"5\n{}", b"abc\n", b"\n\n\n", b"2\n{}2\n{}"])
        return self.sent("bad RecordIO", body, "application/recordio", headers=[("Message-Content-Type", JSON)])

    def case_media_wrong(self):
        media = self.rng.choice(["text/html", "application/x-www-form-urlencoded", "multipart/form-data", ";;;", "application/", "\xff", "a" * 3000, " "])
        return self.sent("wrong media type", b"<html>", media)

    def case_media_missing(self):
        return self.sent("no media type", b"\x00\x01", "")

    def case_accept_wrong(self):
        method, path, media, body = self.write()
        text = (body if isinstance(body, str) else json.dumps(body)).encode()
        accept = self.rng.choice(["text/html;q=x", "image/png", "\xff", "," * 3000, "application/json;version=v99"])
        return self.sent("odd Accept", text, media, path, method, [("Accept", accept)], self.VALID_TOO)

    def case_unknown_ids(self):
        name = self.rng.choice(["nobody", "a%20b", "%F0%9F%98%80", "x" * 300, "-1", "null", "0", "..", "%2e%2e"])
        path = f"{self.rng.choice(READS[self.kind])}/{name}"
        return Case(f"unknown id {path[:60]}", head(self.rng.choice(["GET", "DELETE", "PUT"]), path, [*self.auth, ("Content-Length", 0)]), path, self.VALID_TOO)

    def case_paths(self):
        path = self.rng.choice(ODD_PATHS).replace("\u2603", "x")
        return Case(f"odd path {path[:60]}", head("GET", path, self.auth), path, (*self.VALID_TOO, 301, 302, 307, 308))

    def case_query(self):
        path = f"{self.rng.choice(READS[self.kind])}?{self.rng.choice(['limit', 'offset', 'force', 'embed', 'path', 'jsonp', 'cmd', 'id', 'wait', 'after'])}="
        path += self.rng.choice(["-1", "NaN", "99999999999999999999", "%00", "%ff", "true&true", "a" * 3000, "[]", "1e5"])
        return Case(f"odd query {path[:60]}", head("GET", path, self.auth), path, (*self.VALID_TOO, 307))

    def case_methods(self):
        method = self.rng.choice(["BREW", "TRACE", "CONNECT", "OPTIONS", "PROPFIND", "get", "X" * 200, "DELETE", "PATCH"])
        path = self.rng.choice(READS[self.kind])
        return Case(f"odd method {method[:20]} {path}", head(method, path, [*self.auth, ("Content-Length", 0)]), path, (*self.VALID_TOO, 405))

    def case_bodies_too_large(self):
        # What is announced is not sent where the refusal comes first; what comes is more than anybody takes.
        size = 40 << 20
        method, path, media, _ = self.write()
        data = head(method, path, [*self.auth, ("Content-Type", media), ("Content-Length", size)]) + b'{"a": "' + b"x" * (20 << 20)
        return Case(f"huge body {path}", data, path, range(400, 500), silent=True)

    def case_lengths(self):
        length = self.rng.choice(["-1", "abc", "99999999999999999999999", "5, 6", "0x5", " ", "+5"])
        return Case(f"Content-Length {length}", head("POST", self.write()[1], [*self.auth, ("Content-Length", length)]) + b"{}", silent=True)

    def case_lengths_and_chunks(self):
        # What smugglers send: two ways to say where the body ends.
        kind = self.rng.choice(["chunked", "gzip, chunked", "chunked, identity", "xchunked", "chunked\x0b"])
        data = head("POST", self.write()[1], [*self.auth, ("Content-Length", 3), ("Transfer-Encoding", kind)]) + b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n"
        return Case(f"two lengths {kind!r}", data, "", (*self.VALID_TOO,), silent=True)

    def case_chunks_bad(self):
        chunks = self.rng.choice([b"zz\r\nab\r\n", b"ffffffffffffffffff\r\n", b"5\r\nabc", b"-5\r\nabc\r\n", b"1;" + b"x" * 70_000 + b"\r\n", b"2\r\n{}\r\n0\r\n" + b"a: b\r\n" * 9000 + b"\r\n"])
        data = head("POST", self.write()[1], [*self.auth, ("Content-Type", JSON), ("Transfer-Encoding", "chunked")]) + chunks
        return Case(f"bad chunks {chunks[:10]!r}", data, "", self.VALID_TOO, silent=True, end=True)

    def case_headers_large(self):
        extra = self.rng.choice([[("X", "y" * 100_000)], [(f"X-{n}", "y") for n in range(3000)], [("Cookie", "a=b; " * 20_000)], [("x" * 70_000, "y")]])
        path = self.rng.choice(READS[self.kind])
        # Large and right: whether it is taken is a matter of bounds.
        return Case("large head", head("GET", path, [*self.auth, *extra]), path, self.VALID_TOO, silent=True)

    def case_headers_odd(self):
        line = self.rng.choice([b"X y: z", b": z", b"X\x00: z", b"X: \x00\x01", b" folded", b"X", b"X:\r", b"\xff\xfe: x"])
        return Case(f"odd header {line!r}", b"GET / HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n", silent=True)

    def case_tokens_forged(self):
        part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
        none = f"{part({'alg': 'none', 'typ': 'JWT'})}.{part({'uid': 'admin', 'exp': 4102444800})}."
        words = [none, none + "AAAA", "a.b.c", "...", "", "x" * 20_000, (self.token or "a.b.c")[:-3] + "AAA", f"{part({'alg': 'HS256', 'kid': '../../x'})}.{part({'uid': 'admin'})}.AA"]
        value = self.rng.choice(["token=", "Bearer ", "Basic ", "Negotiate ", ""]) + self.rng.choice(words)
        path = READS[self.kind][0]
        return Case(f"forged token {value[:30]}", head("GET", path, [("Authorization", value)]), path, (401, 400, 405, 404, 403, 431))

    def case_lines_odd(self):
        line = self.rng.choice([b"GET", b"GET /", b"GET / HTTP/9.9", b"GET  / HTTP/1.1", b"\r\n\r\n\r\n", b"GET http:// HTTP/1.1", b"GET * HTTP/1.1", b"GET /\x00 HTTP/1.1", b"\x80\x81", b"POST / HTTP/0.9", b"GET /\xff HTTP/1.1"])
        return Case(f"odd line {line!r}", line + b"\r\nHost: x\r\nConnection: close\r\n\r\n", "/health", self.VALID_TOO, silent=True, end=True)

    def case_bytes_raw(self):
        return Case("raw bytes", self.rng.randbytes(self.rng.randrange(1, 4000)), silent=True, end=True)

    def case_bytes_as_tls(self):
        data = self.rng.choice([b"\x16\x03\x01" + struct.pack("!H", 500) + self.rng.randbytes(500), b"\x16" + self.rng.randbytes(300), b"\x16\x03\x01\xff\xff" + b"\0" * 70_000, b"\x16"])
        return Case("bytes as TLS", data, silent=True, end=True)

    def case_bytes_as_http2(self):
        frames = self.rng.choice([self.rng.randbytes(500), b"\xff\xff\xff\x04\x00\x00\x00\x00\x00", b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\xff\xff\xff\xff" * 50, b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\xff\xff\xff\xff"])
        return Case("bytes as HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames, silent=True, end=True)

    def case_pipelined(self):
        one = head("GET", self.rng.choice(READS[self.kind]), self.auth)
        count = self.rng.choice([2, 20])
        return Case(f"{count} in one", one * count, one.split()[1].decode(), self.VALID_TOO, answers=count)

    def case_upgrades(self):
        what = self.rng.choice([("websocket", []), ("h2c", [("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA")]), ("\xff", [])])
        path = self.rng.choice(READS[self.kind])
        return Case(f"upgrade {what[0]!r}", head("GET", path, [*self.auth, ("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", what[0]), *what[1]]), path, (*self.VALID_TOO, 307))

    def case_ranges(self):
        extra = self.rng.choice([("Range", "bytes=-99999999999999999999"), ("Range", "bytes=9-1"), ("If-Modified-Since", "\xff"), ("Content-Encoding", "gzip"), ("Expect", "1000-maybe"), ("Last-Event-ID", "-1")])
        path = self.rng.choice(READS[self.kind])
        return Case(f"odd {extra[0]}", head("GET", path, [*self.auth, extra]), path, self.VALID_TOO)

    def case_cut_off(self):
        method, path, media, _ = self.write()
        data = head(method, path, [*self.auth, ("Content-Type", media), ("Content-Length", 1000)]) + b'{"a": '
        return Case(f"cut off {path}", data, path, range(400, 500), silent=True, end=True)

    def case_expect(self):
        return self.sent("Expect", b"{", headers=[("Expect", "100-continue")], right=(100, *range(400, 500)))
