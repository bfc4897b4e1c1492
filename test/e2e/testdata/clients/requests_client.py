# Does METHOD URL BODY triples with Python requests; one JSON line for each.
import hashlib
import json
import sys

import requests

session = requests.Session()
args = sys.argv[1:]
while args:
    method, url, body = args[:3]
    args = args[3:]
    try:
        headers = {"Content-Type": "application/json"} if body else {}
        r = session.request(method, url, data=body.encode() or None, headers=headers, timeout=30)
        out = {"status": r.status_code, "reason": r.headers.get("X-Sallyport-Reason", ""),
               "sha256": hashlib.sha256(r.content).hexdigest(), "text": r.text[:4096]}
    except requests.exceptions.RequestException as e:
        out = {"error": repr(e)}
    print(json.dumps(out), flush=True)
