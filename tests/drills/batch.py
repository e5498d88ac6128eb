#!/usr/bin/env python3
"""AWS Batch and S3 on this machine: moto's server, whose jobs run in Docker: batch.py PORT BUCKET QUEUE LOG.

Moto leaves things out that the drill needs: whole numbers, as the SDK refuses 1.0 cpus, the memory that a job asks for
when it is submitted, which Docker enforces here, and a job's credentials. What each job asks for is a line of LOG, as
JSON.
"""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import boto3
from docker.models.containers import ContainerCollection
from moto.batch.models import Job
from moto.server import main

PORT, BUCKET, QUEUE, LOG = sys.argv[1:5]
URL = f"http://127.0.0.1:{PORT}"
property_of, run = Job._get_container_property, ContainerCollection.run


def whole(job: Job, name: str, default: Any) -> Any:
    value = property_of(job, name, default)
    return int(value) if name in ("vcpus", "memory") else value


def limited(containers: ContainerCollection, **options: Any) -> Any:
    """Start a job's container with the memory that the job asks for; its thread is the job."""
    job = threading.current_thread()
    asked = {one["type"]: int(one["value"]) for one in job.container_overrides["resourceRequirements"]}
    with Path(LOG).open("a") as log:
        log.write(json.dumps({"name": job.job_name, "queue": job.job_queue.name, **asked}) + "\n")
    memory = f"{asked['MEMORY']}m"
    options["environment"].update({name: value for name, value in os.environ.items() if name.startswith("AWS_")})
    return run(containers, mem_limit=memory, memswap_limit=memory, **options)


def prepare() -> None:
    """Make the bucket, and the queue with all that one needs."""
    clients = {name: boto3.client(name, endpoint_url=URL) for name in ("s3", "iam", "batch", "ec2")}
    clients["s3"].create_bucket(Bucket=BUCKET)
    role = clients["iam"].create_role(RoleName="drill", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    profile = clients["iam"].create_instance_profile(InstanceProfileName="drill")["InstanceProfile"]["Arn"]
    clients["iam"].add_role_to_instance_profile(InstanceProfileName="drill", RoleName="drill")
    machines = clients["batch"].create_compute_environment(
        computeEnvironmentName="drill",
        type="MANAGED",
        serviceRole=role,
        computeResources={
            "type": "EC2",
            "minvCpus": 0,
            "maxvCpus": 4,
            "instanceTypes": ["optimal"],
            "instanceRole": profile,
            "subnets": [one["SubnetId"] for one in clients["ec2"].describe_subnets()["Subnets"]],
            "securityGroupIds": [one["GroupId"] for one in clients["ec2"].describe_security_groups()["SecurityGroups"]],
        },
    )["computeEnvironmentArn"]
    order = [{"order": 1, "computeEnvironment": machines}]
    clients["batch"].create_job_queue(jobQueueName=QUEUE, state="ENABLED", priority=1, computeEnvironmentOrder=order)
    print("ready", flush=True)


Job._get_container_property = whole
ContainerCollection.run = limited
# boto3 tries again until the server answers
threading.Thread(target=prepare).start()
main(["-H", "127.0.0.1", "-p", PORT])
