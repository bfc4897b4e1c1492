"""Python's requests behind the gate. Usage: requests_peer.py BASE"""
import concurrent.futures
import hashlib
import os
import sys

import requests

base = sys.argv[1]
whole = open(os.environ["STREAM"] + "/3000000", "rb").read()


def digest(b):
    return hashlib.sha256(b).hexdigest()


def check(name, f):
    try:
        f()
        print("ok", name)
    except Exception as e:  # each failure is a line
        print("not ok %s: %r" % (name, e))


def want(got, expected):
    if got != expected:
        raise AssertionError("%.200r, want %.200r" % (got, expected))


session = requests.Session()
for n in (0, 1, 70000, 3000000):
    check("down-%d" % n, lambda: want(digest(session.get("%s/bytes/%d" % (base, n)).content), digest(whole[:n])))
    check("up-%d" % n, lambda: want(session.post(base + "/sum", data=whole[:n]).json()["sha256"], digest(whole[:n])))


def pieces():
    for i in range(0, len(whole), 30000):
        yield whole[i:i + 30000]


check("up-chunked", lambda: want(session.post(base + "/sum", data=pieces()).json()["sha256"], digest(whole)))
check("multipart", lambda: want(session.post(base + "/sum", files={"f": ("name.bin", whole)}).json()["bytes"] > len(whole), True))
check("down-streamed", lambda: want(digest(b"".join(session.get(base + "/bytes/3000000?chunked", stream=True).iter_content(7777))), digest(whole)))
check("lines", lambda: want(list(session.get(base + "/drip", stream=True).iter_lines()), [b"drop %d" % i for i in range(5)]))
check("gzip", lambda: want(digest(session.get(base + "/gzip").content), digest(whole[:300000])))
check("range", lambda: want(session.get(base + "/range", headers={"Range": "bytes=10-19"}).content, whole[10:20]))
check("cookies", lambda: want(session.get(base + "/headers").cookies.get_dict(), {"a": "1", "b": "2"}))
check("redirect", lambda: want(session.get(base + "/redirect").json()["path"], "/sum"))


def cut():
    try:
        session.get(base + "/cut").content
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError):
        return
    raise AssertionError("looked whole")


check("cut", cut)


def slow():
    try:
        session.get(base + "/wait", timeout=0.1)
    except requests.exceptions.ReadTimeout:
        return
    raise AssertionError("no timeout")


check("timeout", slow)


def many():
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for got in pool.map(lambda i: digest(session.get("%s/bytes/%d" % (base, 50000 + i)).content) == digest(whole[:50000 + i]), range(64)):
            want(got, True)


check("concurrent", many)
check("refused", lambda: want(session.get(base + "/secret/x").json()["reason"], "rule_denied"))
