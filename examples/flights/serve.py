"""Answer POST /predict with how likely a flight is to be more than 15 minutes late."""

import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import joblib
import numpy as np

BODY_BYTES_MAX = 64 * 1024
SOCKET_TIMEOUT_S = 30

MODEL = os.path.join(os.environ.get("TOMBOLO_INPUT_MODEL", "inputs/model"), "model.joblib")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = SOCKET_TIMEOUT_S
    # Head and body are written apart, and the second would wait for the first's acknowledgement, up to 40 ms.
    disable_nagle_algorithm = True
    saved: dict

    def do_GET(self) -> None:
        found = self.path == "/healthz"
        self.answer(200 if found else 404, {"status": "ready"} if found else {"error": "not found"})

    def do_POST(self) -> None:
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            length = -1
        if not 0 <= length <= BODY_BYTES_MAX:
            # The body stays unread, so the connection can't be used again.
            self.close_connection = True
            self.answer(413, {"error": f"the body needs a Content-Length of at most {BODY_BYTES_MAX}"})
            return
        body = self.rfile.read(length)
        if self.path != "/predict":
            self.answer(404, {"error": "not found"})
            return
        try:
            flight = json.loads(body)
            row = [np.nan if flight[c] is None else float(flight[c]) for c in self.saved["columns"]]
        except KeyError as error:
            self.answer(400, {"error": f"missing {error.args[0]}"})
            return
        except (TypeError, ValueError) as error:
            self.answer(400, {"error": str(error)})
            return
        late = self.saved["model"].predict_proba(np.array([row], dtype=np.float32))[0, 1]
        self.answer(200, {"late_probability": round(float(late), 4)})

    def answer(self, status: int, value: dict) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    # Loaded before listening: whoever gets an answer gets it from a model.
    Handler.saved = joblib.load(MODEL)
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
    # shutdown() waits for the loop that the signal interrupted, hence the thread.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()
    server.server_close()


if __name__ == "__main__":
    main()
