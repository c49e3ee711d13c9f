"""A worker that is elsewhere: it knows the survey's REST interface and nothing else of it.

python -m pipeline.remote_worker http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import urllib.request
from typing import Any

from pipeline.worker import classify

logger = logging.getLogger(__name__)

BATCH = 8
SECONDS_PER_BATCH = 0.05


class Server:
    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.headers = {"X-Worker": name, "Content-Type": "application/json"}

    def call(self, path: str, data: Any = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data=body, headers=self.headers)
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.load(response)


def main(server: Server, seed: int, poison: str) -> None:
    while True:
        found = False
        for job in server.call("jobs/")["jobs"]:
            tasks = server.call(f"jobs/{job}/tasks/?batch={BATCH}")["tasks"]
            if not tasks:
                continue
            found = True
            time.sleep(SECONDS_PER_BATCH)  # a model would work here
            results = [answer(task, seed, poison) for task in tasks]
            server.call(f"jobs/{job}/result/", {"results": results})
            logger.info("Finished batch of %d of job %s", len(results), job)
        if not found:
            time.sleep(0.05)


def answer(task: dict[str, str], seed: int, poison: str) -> dict[str, Any]:
    if task["image"] == poison:
        return {**task, "error": "the model cannot take it"}
    return {**task, **classify(task["image"], seed)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("server")
    parser.add_argument("--name", default="worker")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--poison", default="", help="a picture that no worker can take")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        main(Server(options.server, options.name), options.seed, options.poison)
    except KeyboardInterrupt:
        pass
