#!/usr/bin/env python3
"""Stands in for the dualsync binary, so that the harness itself can be tested: reads its settings as the binary does,
answers a few admin requests, writes the log lines it is told to, and ends as it is told to."""
import http.server, json, os, signal, sys

config, section = {}, {}
for line in open(sys.argv[sys.argv.index("--config") + 1]).read().splitlines():  # as much TOML as there will be
    if line.startswith("["):
        section = config.setdefault(line.strip("[]"), {})
    elif "=" in line:
        key, value = line.split("=", 1)
        section[key.strip()] = json.loads(value)
listen = os.environ.get("DUALSYNC_ADMIN_LISTEN") or config["admin"]["listen"]
for line in os.environ.get("LINES", "").split("|"):
    print(line, file=sys.stderr, flush=True)
if "EXIT" in os.environ:
    sys.exit(int(os.environ["EXIT"]))
lag = iter([3, 1, 0])


class Admin(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die":
            os._exit(7)
        if self.path == "/metrics":
            return self.answer('# TYPE a counter\na{way="x y"} 3\nb 0.5\n')
        if self.path == "/readyz":
            return self.answer("ok")
        if self.headers["Authorization"] != "Bearer " + os.environ["DUALSYNC_ADMIN_TOKEN"]:
            error = {"code": "NO", "message": "no token", "action": ""}
            return self.answer(json.dumps({"success": False, "error": error}), 401)
        data = {"lag": {"entries": next(lag, 0)}, "config": config, "leak": os.environ.get("MONGODB_ATLAS_URI")}
        self.answer(json.dumps({"success": True, "data": data}))

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(json.dumps({"success": True, "data": json.loads(body)}))

    def answer(self, body, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
host, port = listen.split(":")
http.server.HTTPServer((host, int(port)), Admin).serve_forever()
