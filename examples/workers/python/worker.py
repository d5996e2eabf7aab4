"""A worker in Python: claims the runs of one stage, works on one at a time, and keeps its lease meanwhile."""

import argparse, os, random, signal, threading, time, uuid

import grpc
from baton.v1.job_service_pb2 import ClaimNextRequest, ExtendLeasesRequest, LeaseExtension, LeaseOutcome
from baton.v1.job_service_pb2 import UpdateError, UpdateStatusRequest
from baton.v1.job_service_pb2_grpc import JobServiceStub

STATUSES = {"initialize": ("new", "initialized"), "run": ("initialized", "success")}  # waiting, done
AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)
WAIT_S = 5


class Stopped(Exception):
    """The run is to be canceled, its lease is lost, or the worker is stopping."""


def handle(run, check):
    """The work: yours goes here. `check` raises when it has to stop; any other exception is a failed attempt."""
    for _ in range(int(run.input["tenths"] if "tenths" in run.input else 0)):
        check()
        time.sleep(0.1)
    if "failures" in run.input and run.attempt <= run.input["failures"]:
        raise RuntimeError(f"attempt {run.attempt} was to fail")
    return {"by": "python"}


def call(method, request):
    """Repeats a call until it is answered, which the request_id and the lease token make harmless."""
    for attempt in range(1000):
        try:
            return method(request, timeout=WAIT_S + 10)
        except grpc.RpcError as error:
            if error.code() not in AGAIN or (stop.is_set() and attempt > 3):
                raise
        time.sleep(min(10, 0.2 * 2**attempt) * random.uniform(0.5, 1))


def claim_request(wait_s):
    request = ClaimNextRequest(stage=args.stage, worker_id=f"python-{os.getpid()}", request_id=str(uuid.uuid4()))
    request.wait.FromSeconds(wait_s)
    request.lease_duration.FromSeconds(args.lease)
    return request


def keep_lease(claim, since, ended, why):
    """Extends the lease after each third of it, and notes why the work has to stop."""
    request = ExtendLeasesRequest(leases=[LeaseExtension(run_id=claim.run.id, lease_token=claim.lease_token)])
    pause_s = args.lease / 3
    while not why and not ended.wait(pause_s):
        sent, pause_s = time.monotonic(), args.lease / 3
        try:
            outcome = jobs.ExtendLeases(request, timeout=args.lease / 6).results[0].outcome
            if outcome != LeaseOutcome.LEASE_OUTCOME_OK:
                why.append(LeaseOutcome.Name(outcome))
            since = sent
        except grpc.RpcError:
            pause_s = args.lease / 20
            if time.monotonic() - since > args.lease * 0.75:  # by its own clock, before another can claim the run
                why.append("LEASE_OUTCOME_LEASE_LOST")


def work(claim, since):
    """Works on one run, and gives the update that says how it ended."""
    ended, why = threading.Event(), []

    def check():
        if why or stop.is_set():
            raise Stopped

    keeper = threading.Thread(target=keep_lease, args=(claim, since, ended, why))
    keeper.start()
    waiting, done = STATUSES[args.stage]
    update = UpdateStatusRequest(run_id=claim.run.id, lease_token=claim.lease_token, status=done)
    try:
        check()
        update.output.update(handle(claim.run, check))
    except Stopped:  # a stop hands the run back; of a lost lease the server says so
        update.status = "canceled" if why == ["LEASE_OUTCOME_CANCEL_REQUESTED"] else waiting
    except Exception as error:
        update.status = "error"
        update.error.CopyFrom(UpdateError(code=type(error).__name__, message=str(error)[:4000], retryable=True))
    ended.set()
    keeper.join()
    if not stop.is_set():
        update.claim_next.CopyFrom(claim_request(0))
    return update


def loop():
    claims = []
    while claims or not stop.is_set():
        since = time.monotonic()
        if not claims:  # let end at a stop too: it may bring a run, which is then handed back
            claims = list(call(jobs.ClaimNext, claim_request(WAIT_S)).claims)
        while claims:
            claim, update = claims[0], work(claims.pop(), since)
            since = time.monotonic()
            try:
                claims = list(call(jobs.UpdateStatus, update).claims)
                print(claim.run.id, update.status, flush=True)
            except grpc.RpcError as error:
                print(claim.run.id, error.code().name, error.details(), flush=True)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--server", default="127.0.0.1:50051", help="Baton's gRPC listener")
parser.add_argument("--stage", default="initialize", choices=STATUSES)
parser.add_argument("--lease", type=int, default=30, help="seconds a run stays claimed without a sign of life")
args = parser.parse_args()
signals = (signal.SIGINT, signal.SIGTERM)
signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # they wait for the main thread; the worker has one of its own
jobs, stop = JobServiceStub(grpc.insecure_channel(args.server)), threading.Event()
worker = threading.Thread(target=loop)
worker.start()
while worker.is_alive() and signal.sigtimedwait(signals, 1) is None:
    pass
stop.set()
worker.join()
