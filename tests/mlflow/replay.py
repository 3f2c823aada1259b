#!/usr/bin/env python3
"""Sends the corpus to MLflow's own server and to a Tombolo, and compares the answers field by field.

    replay.py --tombolo PROGRAM [--cache DIR] [--all]

Installs mlflow into a virtual environment under DIR (~/.cache/tombolo-ci/mlflow-<version>), once; starts both servers on
loopback with databases of their own, and ends them. What differs is either in DIFFERENCES below, with its reason, or is
told and fails. Ids, times and random names count as equal, and an error's message is free in its words.
"""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from pathlib import Path

import corpus

VERSION = "3.17.2"
START_SECONDS = 120
# The request (method, path, body), the field, and why it differs. Each stands in docs/mlflow.md as well.
DIFFERENCES = [
    (r"", r"\.(user_id|model_id)$", "versions say who registered them and from which model"),
    (r"", r"\.(model_type|source_run_id)$", "what is empty is left out"),
    (r"", r"\.workspace$", "there are no workspaces"),
    (r"experiments/", r"^experiments\[\d+\]\.(creation|last_update)_time$", "the default experiment was not made at a time"),
    (r"(runs/|metrics/)", r"metrics\[\d+\]\.value$", "infinity is infinity, theirs is the largest number there is"),
    (r"transition-stage .*\"Archived\".*true", r"^(status|error_code)$", "a wrong request is 400, theirs is 500"),
    (r"registered-models/search\?filter=attributes", r"", "attributes may be called so here too"),
    (r"experiments/update .*\"first\"", r"^error_code$", "a name that is taken is RESOURCE_ALREADY_EXISTS everywhere"),
    (r"get-history\?run_id=none", r"", "a run that isn't there has no history; theirs is empty"),
    (r"\"run_view_type\": \"none\"", r"", "a view that isn't there is refused, theirs is all that is active"),
    (r"PATCH logged-models/.*/tags", r"^model$", "the model is told with its new tags"),
]


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--tombolo", required=True, help="the program")
    args.add_argument("--cache", default=os.path.expanduser("~/.cache/tombolo-ci"))
    args.add_argument("--all", action="store_true", help="tell also the differences that are expected")
    args = args.parse_args()
    python = install(Path(args.cache) / f"mlflow-{VERSION}")
    with tempfile.TemporaryDirectory(prefix="tombolo-replay-") as scratch:
        scratch = Path(scratch)
        started = []
        try:
            theirs = start_mlflow(python, scratch, started)
            ours = start_tombolo(args.tombolo, scratch, started)
            sys.exit(compare(theirs, ours, args.all))
        finally:
            for process in started:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def install(where):
    python = where / "bin" / "python"
    done = where / "installed"
    if not done.exists():
        print(f"installing mlflow {VERSION} into {where}", file=sys.stderr)
        venv.create(where, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"mlflow=={VERSION}"], check=True)
        done.touch()
    return python


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def launch(command, scratch, name, started):
    log = open(scratch / f"{name}.log", "wb")
    # `~` is the scratch directory, so that nobody's own servers and tokens are found.
    env = {**os.environ, "HOME": str(scratch), "MLFLOW_DISABLE_TELEMETRY": "true"}
    process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env, start_new_session=True)
    started.append(process)
    return process


def wait_for(url, process, log):
    began = time.monotonic()
    while time.monotonic() - began < START_SECONDS:
        if process.poll() is not None:
            sys.exit(f"{url} ended:\n{log.read_text()[-2000:]}")
        try:
            urllib.request.urlopen(url, timeout=5).read()
            return
        except OSError:
            time.sleep(0.2)
    sys.exit(f"{url} does not answer within {START_SECONDS} s:\n{log.read_text()[-2000:]}")


def start_mlflow(python, scratch, started):
    port = free_port()
    command = [python, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{scratch}/mlflow.db"]
    command += ["--artifacts-destination", str(scratch / "artifacts"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    process = launch([str(part) for part in command], scratch, "mlflow", started)
    wait_for(f"http://127.0.0.1:{port}/health", process, scratch / "mlflow.log")
    return Server(f"http://127.0.0.1:{port}", None)


def start_tombolo(program, scratch, started):
    port = free_port()
    command = [program, "server", "--dir", str(scratch / "server"), "--listen", f"127.0.0.1:{port}", "--agent-listen", "127.0.0.1:0"]
    process = launch(command, scratch, "tombolo", started)
    wait_for(f"http://127.0.0.1:{port}/health", process, scratch / "tombolo.log")
    return Server(f"http://127.0.0.1:{port}", (scratch / "server" / "admin.token").read_text().strip())


class Server:
    def __init__(self, base, token):
        self.base, self.token, self.said = base, token, []

    def ask(self, method, path, body):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(f"{self.base}/api/2.0/mlflow/{path}", data, headers, method=method)
        try:
            answer = urllib.request.urlopen(request, timeout=60)
            status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        try:
            value = json.loads(text)
        except ValueError:
            value = {"text": text[:200]}
        shown = json.dumps(body)
        self.said.append((f"{method} {path} {shown if len(shown) < 300 else shown[:300] + '...'}", status, value))
        return value


def compare(theirs, ours, tell_all):
    for name, part in corpus.ALL:
        for server in [theirs, ours]:
            try:
                part(server.ask)
            except (KeyError, TypeError) as error:
                asked, status, value = server.said[-1]
                print(f"{name} broke off at {server.base} after {asked}: {status} {value}: {error!r}")
                return 1
        if len(theirs.said) != len(ours.said):
            print("the two were asked for different things")
            return 1
    unexpected = expected = 0
    for (asked, status, value), (asked_ours, status_ours, value_ours) in zip(theirs.said, ours.said):
        found = list(differences("", plain(value), plain(value_ours)))
        if status != status_ours:
            found.append(("status", status, status_ours))
        for field, was, now in found:
            reason = next((why for request, name, why in DIFFERENCES if re.search(request, asked) and re.search(name, field)), None)
            if reason:
                expected += 1
            else:
                unexpected += 1
            if tell_all or not reason:
                print(f"{plain_text(asked)}\n    {field or 'the answer'}: theirs {was!r:.200}, ours {now!r:.200}" + (f" ({reason})" if reason else ""))
    print(f"{len(theirs.said)} requests: {expected} differences that are known, {unexpected} that are not")
    return 1 if unexpected else 0


def plain_text(text):
    return re.sub(r"\b(m-)?[0-9a-f]{32}\b", r"\1<id>", text)


def plain(value, name=""):
    """Without what may differ: ids, times, random names, empty lists, words."""
    if isinstance(value, dict):
        fields = {key: plain(one, key) for key, one in value.items() if key not in ("error_class", "sqlstate")}
        return {key: one for key, one in fields.items() if one not in ([], {})}
    if isinstance(value, list):
        rows = [plain(one) for one in value]
        # Theirs come as the database has them.
        in_no_order = name in ("latest_versions", "tags", "params") or name == "metrics" and "step" in str(rows)
        return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True)) if in_no_order else rows
    if name == "message" or name == "next_page_token":
        return "<text>"
    if isinstance(value, str):
        return plain_text(value)
    is_time = name.endswith(("time", "timestamp", "_ms"))
    if is_time and isinstance(value, int) and value > 1_000_000_000_000:
        return "<time>"
    return value


def differences(path, theirs, ours):
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(set(theirs) | set(ours)):
            yield from differences(f"{path}.{key}" if path else key, theirs.get(key), ours.get(key))
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for at, (one, other) in enumerate(zip(theirs, ours)):
            yield from differences(f"{path}[{at}]", one, other)
    elif theirs != ours:
        yield (path, theirs, ours)


if __name__ == "__main__":
    main()
