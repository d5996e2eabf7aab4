"""A worker in Python: claims the runs of one stage, works on one at a time, and keeps its lease meanwhile."""
import os, signal, time, uuid
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
import grpc
from baton.v1 import job_service_pb2 as pb, job_service_pb2_grpc

SERVER, LEASE_S = os.environ.get("BATON", "127.0.0.1:50051"), int(os.environ.get("LEASE_S", "30"))
STAGE = os.environ.get("STAGE", "initialize")
if STAGE not in ("initialize", "run"):
    raise SystemExit("STAGE must be initialize or run")
WAITING, DONE = {"initialize": ("new", "initialized"), "run": ("initialized", "success")}[STAGE]
# gRPC repeats a call, with jitter; the request_id and the lease token make that harmless.
RETRIES = """{"methodConfig": [{"name": [{"service": "baton.v1.JobService"}], "waitForReady": true,
    "timeout": "60s", "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.2s", "maxBackoff": "10s",
    "backoffMultiplier": 3, "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]}}]}"""
jobs = job_service_pb2_grpc.JobServiceStub(grpc.insecure_channel(SERVER, [("grpc.service_config", RETRIES)]))
thread, stopping = ThreadPoolExecutor(1), []

def handle(run, check):
    """The work: yours goes here. `check` raises when it has to stop; all else raised fails the attempt."""
    for _ in range(int(run.input.fields["tenths"].number_value)):
        check()
        time.sleep(0.1)
    if run.attempt <= run.input.fields["failures"].number_value:
        raise RuntimeError(f"attempt {run.attempt} was to fail")
    return {"by": "python"}

def claim_next(wait_s):
    return pb.ClaimNextRequest(stage=STAGE, worker_id=f"python-{os.getpid()}", request_id=str(uuid.uuid4()),
                               wait={"seconds": wait_s}, lease_duration={"seconds": LEASE_S})

def work(claim):
    """Does one run and reports how it ended, and gives the next one."""
    held, kept = {"run_id": claim.run.id, "lease_token": claim.lease_token}, True
    extension, update = pb.ExtendLeasesRequest(leases=[held]), pb.UpdateStatusRequest(**held, status=DONE)
    def check():
        if stopping or not kept:
            raise InterruptedError
    try:
        check()
        job = thread.submit(handle, claim.run, check)
        while wait([job], LEASE_S / 3).not_done:
            with suppress(grpc.RpcError):  # may mean a lost lease; baton/client also stops by its own clock
                answer = jobs.ExtendLeases(extension, timeout=LEASE_S / 6)
                kept = answer.results[0].outcome == pb.LEASE_OUTCOME_OK
        update.output.update(job.result())
    except InterruptedError:  # a stop hands the run back; if the lease is lost, the server refuses this
        update.status = WAITING if stopping else "canceled"
    except Exception as error:
        update.status = "error"
        update.error.MergeFrom(pb.UpdateError(message=str(error)[:4000], retryable=True))
    if not stopping:
        update.claim_next.CopyFrom(claim_next(0))
    try:
        print(update.run_id, update.status, flush=True)
        return jobs.UpdateStatus(update).claims
    except grpc.RpcError as error:
        print(update.run_id, error.details(), flush=True)
        return []

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: stopping.append(True))
claims = []
while claims or not stopping:  # a claim is let end at a stop: what it brings is then handed back
    claims = work(claims[0]) if claims else jobs.ClaimNext(claim_next(5)).claims
