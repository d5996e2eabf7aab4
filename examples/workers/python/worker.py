"""A worker in Python: claims the runs of one stage, works on one at a time, and keeps its lease meanwhile."""
import os, signal, threading, time, uuid
import grpc
from baton.v1 import job_service_pb2 as pb, job_service_pb2_grpc

STAGE, LEASE_S = os.environ.get("STAGE", "initialize"), int(os.environ.get("LEASE_S", "30"))
WAITING, DONE = {"initialize": ("new", "initialized"), "run": ("initialized", "success")}[STAGE]
# gRPC repeats a call, with jitter; the request_id and the lease token make that harmless.
RETRIES = """{"methodConfig": [{"name": [{"service": "baton.v1.JobService"}], "waitForReady": true,
    "timeout": "60s", "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.2s", "maxBackoff": "10s",
    "backoffMultiplier": 3, "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]}}]}"""
SERVER = os.environ.get("BATON", "127.0.0.1:50051")
channel = grpc.insecure_channel(SERVER, [("grpc.service_config", RETRIES)])
jobs, stopping = job_service_pb2_grpc.JobServiceStub(channel), []

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

def keep_lease(claim, ended, lost):
    request = pb.ExtendLeasesRequest(leases=[{"run_id": claim.run.id, "lease_token": claim.lease_token}])
    while not lost and not ended.wait(LEASE_S / 3):
        try:
            outcome = jobs.ExtendLeases(request, timeout=LEASE_S / 6).results[0].outcome
            if outcome != pb.LEASE_OUTCOME_OK:
                lost.append(outcome)
        except grpc.RpcError:
            pass  # it may be lost, which the server tells later; baton/client also stops by its own clock

def work(claim):
    """Does one run and reports how it ended, and gives the next one."""
    ended, lost = threading.Event(), []
    def check():
        if lost or stopping:
            raise InterruptedError
    threading.Thread(target=keep_lease, args=(claim, ended, lost), daemon=True).start()
    update = pb.UpdateStatusRequest(run_id=claim.run.id, lease_token=claim.lease_token, status=DONE)
    try:
        check()
        update.output.update(handle(claim.run, check))
    except InterruptedError:  # a stop hands the run back; with a lost lease the server refuses that
        update.status = "canceled" if lost == [pb.LEASE_OUTCOME_CANCEL_REQUESTED] else WAITING
    except Exception as error:
        update.status = "error"
        update.error.MergeFrom(pb.UpdateError(message=str(error)[:4000], retryable=True))
    ended.set()
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
