#!/usr/bin/env python3
"""What Nextflow asks of Kubernetes' API, for pods that run in Docker on this machine: k8s.py PORT CLAIM FOLDER LOG.

FOLDER is the volume of the claim CLAIM. As a kubelet does, it gives the volume to the group of a pod's `fsGroup`, and a
pod that goes above its limit of memory is killed. Each pod that is asked for is a line of LOG, as JSON.
"""

import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PORT, CLAIM, FOLDER, LOG = sys.argv[1:5]


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


def start(pod: dict[str, Any]) -> None:
    """Start the one container of a pod."""
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    claims = {one["name"]: one["persistentVolumeClaim"]["claimName"] for one in spec["volumes"]}
    user = spec["securityContext"]
    options = ["--memory", container["resources"]["limits"]["memory"].replace("Mi", "m")]
    options += ["--user", f"{user['runAsUser']}:{user['runAsGroup']}", "--group-add", str(user["fsGroup"])]
    for mount in container["volumeMounts"]:
        if claims[mount["name"]] != CLAIM:
            raise KeyError(claims[mount["name"]])
        subprocess.run(["chgrp", "-R", str(user["fsGroup"]), FOLDER], check=True)
        subprocess.run(["chmod", "-R", "g+rwX", FOLDER], check=True)
        options += ["--volume", f"{FOLDER}:{mount['mountPath']}"]
    docker("run", "--detach", "--name", pod["metadata"]["name"], *options, container["image"], *container["args"])


def status(name: str) -> dict[str, Any]:
    """What a pod does, in Kubernetes' words."""
    state = json.loads(docker("inspect", name))[0]["State"]
    if state["Status"] == "exited":
        times = {"startedAt": state["StartedAt"], "finishedAt": state["FinishedAt"]}
        now = {"terminated": {"exitCode": state["ExitCode"], **times}}
    else:
        now = {"running": {"startedAt": state["StartedAt"]}}
    return {"phase": "Running", "containerStatuses": [{"name": name, "state": now}]}


class Api(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        pod = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with Path(LOG).open("a") as log:
            log.write(json.dumps(pod) + "\n")
        asked = pod["spec"]["containers"][0]["resources"]
        # as for what is no cpu, memory or disk, such as a GPU
        if unlimited := [name for name in asked["requests"].keys() - asked["limits"].keys() if "/" in name]:
            self.answer({"kind": "Status", "message": f"{unlimited}: Limit must be set"}, 422)
        else:
            start(pod)
            self.answer(pod)

    def do_GET(self) -> None:
        # /api/v1/namespaces/NAMESPACE/pods/NAME/status or /log
        name, what = self.path.partition("?")[0].split("/")[6:8]
        if what == "log":
            self.answer(docker("logs", name))
        else:
            self.answer({"metadata": {"name": name}, "spec": {"nodeName": "here"}, "status": status(name)})

    def do_DELETE(self) -> None:
        docker("rm", "--force", self.path.partition("?")[0].split("/")[6])
        self.answer({"kind": "Status", "status": "Success"})

    def answer(self, content: Any, code: int = 200) -> None:
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("127.0.0.1", int(PORT)), Api).serve_forever()
