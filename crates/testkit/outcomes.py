"""A pytest plugin: writes what became of each test to the file $OUTCOMES, one JSON object a line."""

import json
import os

RANK = {"passed": 0, "skipped": 1, "failed": 2}
worst = {}


def pytest_runtest_logreport(report):
    last = worst.setdefault(report.nodeid, {"outcome": "passed", "says": "", "seconds": 0.0})
    last["seconds"] += report.duration
    if RANK[report.outcome] > RANK[last["outcome"]]:
        last["outcome"] = report.outcome
        crash = getattr(report.longrepr, "reprcrash", None)
        says = crash.message if crash else str(report.longrepr)
        last["says"] = says.strip()[:1000]
    if report.when == "teardown":
        with open(os.environ["OUTCOMES"], "a") as file:
            file.write(json.dumps({"test": report.nodeid, **last}) + "\n")
