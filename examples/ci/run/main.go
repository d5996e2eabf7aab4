// Command run is the `run` worker of the example: it runs the test command of each run in the clone that the
// worker of the stage before has made, and reports what came out.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	batonv1 "baton-jobs/gen/go/baton/v1"
)

// The words of the built-in pipeline `ci`.
const (
	stage          = "run"
	statusWaiting  = "initialized"
	statusRunning  = "running"
	statusSuccess  = "success"
	statusError    = "error"
	statusCanceled = "canceled"
)

const claimWait = 30 * time.Second

// Why a command was stopped before it ended by itself.
var (
	errStopping  = errors.New("the worker is stopping")
	errCanceled  = errors.New("the run is to be canceled")
	errLeaseLost = errors.New("the lease is lost")
	errTimeout   = errors.New("the time limit has passed")
)

type worker struct {
	jobs    batonv1.JobServiceClient
	id      string
	workDir string
	lease   time.Duration
	timeout time.Duration
}

func main() {
	log.SetFlags(0)
	hostname, _ := os.Hostname()
	server := flag.String("server", "127.0.0.1:50051", "address of Baton's gRPC listener")
	workDir := flag.String("work-dir", "", "folder that the clones are in; nothing outside of it is used or removed")
	id := flag.String("worker-id", fmt.Sprintf("run-go-%s-%d", hostname, os.Getpid()), "name of this worker")
	lease := flag.Duration("lease", time.Minute, "for how long a run stays claimed without a sign of life")
	timeout := flag.Duration("timeout", 15*time.Minute, "how long one test command may take")
	flag.Parse()
	if *workDir == "" {
		log.Fatal("--work-dir is required")
	}

	// Loopback only: a server that others can reach has TLS in front of it.
	conn, err := grpc.NewClient(*server, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	w := &worker{
		jobs: batonv1.NewJobServiceClient(conn), id: *id, workDir: *workDir, lease: *lease, timeout: *timeout,
	}
	log.Printf("%s waits for runs", w.id)
	for ctx.Err() == nil {
		claim, err := w.claim(ctx)
		if err != nil && ctx.Err() == nil {
			log.Fatalf("cannot claim: %v", err)
		}
		if claim != nil {
			w.work(ctx, claim)
		}
	}
	log.Print("stopped")
}

// claim waits for a run. Baton hands back what could not be delivered, so that neither the end of ctx nor a lost
// connection costs a run an attempt.
func (w *worker) claim(ctx context.Context) (*batonv1.Claim, error) {
	request := &batonv1.ClaimNextRequest{
		Stage: stage, WorkerId: w.id, Wait: durationpb.New(claimWait), LeaseDuration: durationpb.New(w.lease),
	}
	response, err := retry(ctx, claimWait+10*time.Second, func(ctx context.Context) (*batonv1.ClaimNextResponse, error) {
		return w.jobs.ClaimNext(ctx, request)
	})
	if err != nil || len(response.GetClaims()) == 0 {
		return nil, err
	}
	return response.Claims[0], nil
}

// work runs the command of one run under its lease, and reports how it ended.
func (w *worker) work(ctx context.Context, claim *batonv1.Claim) {
	run := claim.GetRun()
	workdir := run.GetOutput().GetFields()["workdir"].GetStringValue()
	if !isInside(w.workDir, workdir) {
		w.finish(ctx, claim, "", failure("NO_CLONE", fmt.Sprintf("%q is no clone in %s", workdir, w.workDir), nil))
		return
	}
	command, err := commandOf(run.GetInput().GetFields()["command"], workdir)
	if err != nil {
		w.finish(ctx, claim, workdir, failure("NO_TEST_COMMAND", err.Error(), nil))
		return
	}
	log.Printf("%s: running %q (attempt %d)", run.Id, command, run.Attempt)

	limited, release := context.WithTimeoutCause(context.WithoutCancel(ctx), w.timeout, errTimeout)
	defer release()
	commandCtx, cancel := context.WithCancelCause(limited)
	defer cancel(nil)
	output := &tail{}
	done := make(chan result, 1)
	go func() { done <- execute(commandCtx, workdir, command, output) }()
	heartbeat := time.NewTicker(w.lease / 3)
	defer heartbeat.Stop()
	stopping := ctx.Done()
	for {
		select {
		case ended := <-done:
			w.finish(ctx, claim, workdir, w.judge(commandCtx, run, command, ended, output))
			return
		case <-heartbeat.C:
			if cause := w.renew(ctx, claim, output); cause != nil {
				cancel(cause)
			}
		case <-stopping:
			cancel(errStopping)
			stopping = nil // once is enough; what is left is to wait for the command's end
		}
	}
}

// judge makes the update that says how the command ended; nil says nothing, because nothing may be said any more.
func (w *worker) judge(
	ctx context.Context, run *batonv1.Run, command []string, ended result, output *tail,
) *batonv1.UpdateStatusRequest {
	cause := context.Cause(ctx)
	switch {
	case errors.Is(cause, errLeaseLost):
		return nil
	case errors.Is(cause, errStopping):
		return &batonv1.UpdateStatusRequest{Status: statusWaiting, StatusMessage: proto.String("handed back")}
	case errors.Is(cause, errCanceled):
		return &batonv1.UpdateStatusRequest{Status: statusCanceled}
	case ended.err != nil:
		return failure("COMMAND_NOT_RUN", ended.err.Error(), nil)
	}
	argv := make([]any, len(command))
	for i, argument := range command {
		argv[i] = argument
	}
	report, err := structpb.NewStruct(map[string]any{
		"command":          argv,
		"commit":           run.GetOutput().GetFields()["commit"].GetStringValue(),
		"exit_code":        ended.exitCode,
		"duration_seconds": ended.duration.Seconds(),
		"log_tail":         output.String(),
	})
	switch {
	case err != nil:
		return failure("INTERNAL", err.Error(), nil)
	case errors.Is(cause, errTimeout):
		return failure("TEST_TIMEOUT", fmt.Sprintf("not done after %v", w.timeout), report)
	case ended.exitCode != 0:
		return failure("TEST_FAILED", fmt.Sprintf("the tests ended with exit code %d", ended.exitCode), report)
	}
	passed := fmt.Sprintf("passed after %v", ended.duration.Round(time.Millisecond))
	return &batonv1.UpdateStatusRequest{Status: statusSuccess, StatusMessage: &passed, Output: report}
}

// failure is final: a test that fails is an answer, and another attempt would only repeat it.
func failure(code, message string, report *structpb.Struct) *batonv1.UpdateStatusRequest {
	message = firstRunes(message, messageRunes)
	return &batonv1.UpdateStatusRequest{
		Status: statusError, StatusMessage: &message, Output: report,
		Error: &batonv1.UpdateError{Code: code, Message: message},
	}
}

// renew keeps the lease and says what is happening. The result is why the command has to stop, or nil.
func (w *worker) renew(ctx context.Context, claim *batonv1.Claim, output *tail) error {
	// Also while the worker stops: the lease is needed until the run is handed back.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.lease/3)
	defer cancel()
	response, err := w.jobs.UpdateStatus(ctx, &batonv1.UpdateStatusRequest{
		RunId: claim.Run.Id, LeaseToken: claim.LeaseToken,
		Status: statusRunning, StatusMessage: proto.String(output.lastLine()),
	})
	switch {
	case status.Code(err) == codes.Aborted:
		return errLeaseLost
	case err != nil:
		// There are two more chances before the lease ends; the server decides whether it was too late.
		log.Printf("%s: cannot renew the lease: %v", claim.Run.Id, err)
		return nil
	case response.CancelRequested:
		return errCanceled
	}
	return nil
}

// finish reports the end of the work, and removes the clone once nobody needs it.
func (w *worker) finish(ctx context.Context, claim *batonv1.Claim, workdir string, update *batonv1.UpdateStatusRequest) {
	if update == nil {
		log.Printf("%s: the lease is lost, another worker has the run", claim.Run.Id)
		return
	}
	update.RunId, update.LeaseToken = claim.Run.Id, claim.LeaseToken
	// The same update may be sent again after a lost answer: it is made once.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.lease)
	defer cancel()
	_, err := retry(ctx, 10*time.Second, func(ctx context.Context) (*batonv1.UpdateStatusResponse, error) {
		return w.jobs.UpdateStatus(ctx, update)
	})
	if err != nil {
		log.Printf("%s: the end was not accepted: %v", claim.Run.Id, err)
		return
	}
	log.Printf("%s: %s %s", claim.Run.Id, update.Status, update.GetError().GetMessage())
	if update.Status == statusWaiting || workdir == "" {
		return
	}
	if err := os.RemoveAll(workdir); err != nil {
		log.Printf("%s: cannot remove the clone: %v", claim.Run.Id, err)
	}
}
