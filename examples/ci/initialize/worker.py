"""The `initialize` worker of the example: clones the repository of each run and hands the clone to the next stage."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

import grpc
from baton.v1.job_service_pb2 import Claim, ClaimNextRequest, UpdateError, UpdateStatusRequest
from baton.v1.job_service_pb2_grpc import JobServiceStub
from baton.v1.run_pb2 import Run

# The words of the built-in pipeline `ci`.
STAGE = "initialize"
WAITING, CLONING, DONE, ERROR, CANCELED = "new", "initializing", "initialized", "error", "canceled"

CLAIM_WAIT_S = 30
CALL_TIMEOUT_S = 10
RETRY_FIRST_S, RETRY_MAX_S = 1.0, 15.0
RETRYABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)

# git must never wait for somebody to type a password.
GIT_ENV = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": "ssh -o BatchMode=yes", "LC_ALL": "C"}
NETWORK_TROUBLE = re.compile(
    r"could not resolve|connection (refused|reset|timed out)|early eof|the remote end hung up|"
    r"returned error: (429|5\d\d)|operation timed out|network is unreachable",
    re.IGNORECASE,
)

log = logging.getLogger("initialize")
T = TypeVar("T")


class LeaseLost(Exception):
    """Another worker may have the run by now: drop the work and say nothing about it."""


class Canceled(Exception):
    """Somebody asked to cancel the run."""


class Stopping(Exception):
    """This worker is to end."""


class GitError(Exception):
    """git did not do it; the message is what it printed."""


async def retry(call: Callable[[], Awaitable[T]], give_up_after_s: float | None = None) -> T:
    """Calls until there is an answer: a server that is restarting or busy is waited for, with growing delays."""
    loop, delay_s = asyncio.get_running_loop(), RETRY_FIRST_S
    give_up_at = None if give_up_after_s is None else loop.time() + give_up_after_s
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.code() not in RETRYABLE or (give_up_at is not None and loop.time() > give_up_at):
                raise
            log.info("trying again: %s %s", error.code().name, error.details())
        await asyncio.sleep(delay_s * random.uniform(1, 1.5))
        delay_s = min(2 * delay_s, RETRY_MAX_S)


class Worker:
    def __init__(self, jobs: JobServiceStub, worker_id: str, work_dir: str, lease_s: float) -> None:
        self._jobs = jobs
        self._id = worker_id
        self._work_dir = work_dir
        self._lease_s = lease_s
        self.stop = asyncio.Event()

    async def run(self) -> None:
        """Claims and works until `stop` is set."""
        log.info("%s waits for runs", self._id)
        while not self.stop.is_set():
            claim = await self._claim()
            if claim is not None:
                await self._work(claim)
        log.info("stopped")

    async def _unless_stopped(self, work: asyncio.Future[T], timeout_s: float | None = None) -> bool:
        """Waits for `work` to end, for `stop` or for the time to pass, and tells whether `work` has ended."""
        stop = asyncio.ensure_future(self.stop.wait())
        await asyncio.wait({work, stop}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        return work.done()

    async def _claim(self) -> Claim | None:
        request = ClaimNextRequest(stage=STAGE, worker_id=self._id)
        request.wait.FromSeconds(CLAIM_WAIT_S)
        request.lease_duration.FromTimedelta(timedelta(seconds=self._lease_s))
        answer = asyncio.ensure_future(retry(lambda: self._jobs.ClaimNext(request, timeout=CLAIM_WAIT_S + 10)))
        if not await self._unless_stopped(answer):
            answer.cancel()  # Baton hands back what it cannot deliver; that costs the run no attempt
            return None
        claims = answer.result().claims
        return claims[0] if claims else None

    async def _work(self, claim: Claim) -> None:
        run = claim.run
        # Not the run's id alone: after a lost lease, another attempt may already be cloning the same run.
        folder = tempfile.mkdtemp(prefix=f"{run.id}-", dir=self._work_dir)
        log.info("%s: cloning %s (attempt %d)", run.id, run.repository, run.attempt)
        try:
            commit = await self._clone(claim, folder)
            update = UpdateStatusRequest(status=DONE)
            update.output.update({"workdir": folder, "commit": commit})
        except GitError as error:
            retryable = NETWORK_TROUBLE.search(str(error)) is not None
            message = str(error)[-4000:]
            update = UpdateStatusRequest(
                status=ERROR, error=UpdateError(code="CLONE_FAILED", message=message, retryable=retryable)
            )
        except Canceled:
            update = UpdateStatusRequest(status=CANCELED)
        except Stopping:
            update = UpdateStatusRequest(status=WAITING, status_message="handed back")
        except LeaseLost:
            log.warning("%s: the lease is lost, another worker has the run", run.id)
            shutil.rmtree(folder, ignore_errors=True)
            return
        try:
            # The same update may be sent again after a lost answer: it is made once.
            await retry(lambda: self._update(claim, update), give_up_after_s=self._lease_s)
        except (LeaseLost, grpc.aio.AioRpcError) as error:
            log.error("%s: the end was not accepted: %s", run.id, error)
            update.status = ERROR
        else:
            log.info("%s: %s %s", run.id, update.status, update.error.message)
        if update.status != DONE:  # from here on the clone is the next worker's
            shutil.rmtree(folder, ignore_errors=True)

    async def _clone(self, claim: Claim, folder: str) -> str:
        """Checks out what the run asks for and returns the commit."""
        run: Run = claim.run
        fields = run.input.fields
        ref = (fields["ref"].string_value if "ref" in fields else "") or "HEAD"
        if run.repository.startswith("-") or ref.startswith("-"):
            raise GitError("the repository and the ref must not begin with a dash")
        await self._git(claim, "clone", "--quiet", "--no-checkout", run.repository, folder)
        # Fetched by name, so that a branch, a tag and a commit are all the same.
        await self._git(claim, "-C", folder, "fetch", "--quiet", "origin", ref)
        await self._git(claim, "-C", folder, "checkout", "--quiet", "--detach", "FETCH_HEAD")
        return (await self._git(claim, "-C", folder, "rev-parse", "HEAD")).strip()

    async def _git(self, claim: Claim, *args: str) -> str:
        """Runs git and keeps the lease as long as that takes."""
        pipe = asyncio.subprocess.PIPE
        # A session of its own: Ctrl-C is for the worker, which then decides what becomes of git.
        process = await asyncio.create_subprocess_exec(
            "git", *args, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=GIT_ENV, start_new_session=True
        )
        ended = asyncio.ensure_future(process.communicate())
        try:
            while not await self._unless_stopped(ended, timeout_s=self._lease_s / 3):
                if self.stop.is_set():
                    raise Stopping
                await self._renew(claim, f"git {args[0]}")
        finally:
            if not ended.done():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            out, err = await ended
        if process.returncode != 0:
            raise GitError(err.decode(errors="replace").replace("\0", "").strip() or f"exit code {process.returncode}")
        return out.decode(errors="replace")

    async def _renew(self, claim: Claim, message: str) -> None:
        try:
            await self._update(claim, UpdateStatusRequest(status=CLONING, status_message=message))
        except grpc.aio.AioRpcError as error:
            # There are two more chances before the lease ends; the server decides whether it was too late.
            log.warning("%s: cannot renew the lease: %s", claim.run.id, error.details())

    async def _update(self, claim: Claim, update: UpdateStatusRequest) -> Any:
        update.run_id, update.lease_token = claim.run.id, claim.lease_token
        try:
            response = await self._jobs.UpdateStatus(update, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.ABORTED:
                raise LeaseLost(error.details()) from error
            raise
        if response.cancel_requested and update.status == CLONING:
            raise Canceled
        return response


async def main() -> None:
    name = f"initialize-py-{socket.gethostname()}-{os.getpid()}"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default="127.0.0.1:50051", help="address of Baton's gRPC listener")
    parser.add_argument("--work-dir", required=True, help="existing folder for the clones, one folder per run")
    parser.add_argument("--worker-id", default=name, help="name of this worker")
    parser.add_argument("--lease", type=float, default=60, help="seconds a run stays claimed without a sign of life")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    # Loopback only: a server that others can reach has TLS in front of it.
    async with grpc.aio.insecure_channel(args.server) as channel:
        worker = Worker(JobServiceStub(channel), args.worker_id, os.path.abspath(args.work_dir), args.lease)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, worker.stop.set)
        try:
            await worker.run()
        except grpc.aio.AioRpcError as error:
            sys.exit(f"cannot claim: {error.code().name} {error.details()}")


if __name__ == "__main__":
    asyncio.run(main())
