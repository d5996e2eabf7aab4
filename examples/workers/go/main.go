// Command worker claims the runs of one stage, works on one at a time, and keeps its lease meanwhile.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	batonv1 "baton/examples/ci/run/gen/baton/v1"
)

const wait = 5 * time.Second

var (
	server = flag.String("server", "127.0.0.1:50051", "Baton's gRPC listener")
	stage  = flag.String("stage", "initialize", "initialize or run")
	lease  = flag.Duration("lease", 30*time.Second, "how long a run stays claimed without a sign of life")
	words  = map[string]struct{ waiting, done string }{"initialize": {"new", "initialized"}, "run": {"initialized", "success"}}

	errStopping, errCanceled = errors.New("the worker is stopping"), errors.New("the run is to be canceled")
	errLost                  = errors.New("the lease is lost")
)

// handle is the work: yours goes here. It has to end soon when ctx does; any other error is a failed attempt.
func handle(ctx context.Context, run *batonv1.Run) (map[string]any, error) {
	select {
	case <-time.After(time.Duration(run.Input.GetFields()["tenths"].GetNumberValue()) * 100 * time.Millisecond):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if float64(run.Attempt) <= run.Input.GetFields()["failures"].GetNumberValue() {
		return nil, fmt.Errorf("attempt %d was to fail", run.Attempt)
	}
	return map[string]any{"by": "go"}, nil
}

// call repeats a call until it is answered, which the request_id and the lease token make harmless.
func call[Q, A any](ctx context.Context, method func(context.Context, Q, ...grpc.CallOption) (A, error), request Q) (A, error) {
	for delay, tries := 200*time.Millisecond, 0; ; delay = min(2*delay, 10*time.Second) {
		callCtx, cancel := context.WithTimeout(context.Background(), wait+10*time.Second)
		answer, err := method(callCtx, request)
		cancel()
		if ctx.Err() != nil {
			tries++ // the worker is stopping
		}
		switch status.Code(err) {
		case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded:
		default:
			return answer, err
		}
		if tries > 3 {
			return answer, err
		}
		time.Sleep(delay/2 + rand.N(delay/2))
	}
}

func claimRequest(wait time.Duration) *batonv1.ClaimNextRequest {
	return &batonv1.ClaimNextRequest{
		Stage: *stage, WorkerId: fmt.Sprintf("go-%d", os.Getpid()), RequestId: fmt.Sprintf("%x-%x", rand.Uint64(), rand.Uint64()),
		Wait: durationpb.New(wait), LeaseDuration: durationpb.New(*lease),
	}
}

// keepLease extends the lease after each third of it, and cancels the work when it has to stop.
func keepLease(ctx context.Context, jobs batonv1.JobServiceClient, claim *batonv1.Claim, since time.Time, stop context.CancelCauseFunc) {
	request := &batonv1.ExtendLeasesRequest{Leases: []*batonv1.LeaseExtension{{RunId: claim.Run.Id, LeaseToken: claim.LeaseToken}}}
	for pause := *lease / 3; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		sent := time.Now()
		callCtx, cancel := context.WithTimeout(ctx, *lease/6)
		answer, err := jobs.ExtendLeases(callCtx, request)
		cancel()
		switch {
		case err != nil && time.Since(since) > *lease*3/4: // by its own clock, before another can claim the run
			stop(errLost)
		case err != nil:
			pause = *lease / 20
		case answer.Results[0].Outcome == batonv1.LeaseOutcome_LEASE_OUTCOME_CANCEL_REQUESTED:
			stop(errCanceled)
		case answer.Results[0].Outcome == batonv1.LeaseOutcome_LEASE_OUTCOME_LEASE_LOST:
			stop(errLost)
		default:
			since, pause = sent, *lease/3
		}
	}
}

// work does one run, and gives the update that says how it ended.
func work(stopping context.Context, jobs batonv1.JobServiceClient, claim *batonv1.Claim, since time.Time) *batonv1.UpdateStatusRequest {
	ctx, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	defer context.AfterFunc(stopping, func() { stop(errStopping) })()
	go keepLease(ctx, jobs, claim, since, stop)
	output, err := handle(ctx, claim.Run)
	update := &batonv1.UpdateStatusRequest{RunId: claim.Run.Id, LeaseToken: claim.LeaseToken, Status: words[*stage].done}
	if err == nil {
		update.Output, err = structpb.NewStruct(output)
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errCanceled):
		update.Status, update.Output = "canceled", nil
	case cause != nil: // a stop hands the run back; of a lost lease the server says so
		update.Status, update.Output = words[*stage].waiting, nil
	case err != nil:
		update.Status, update.Error = "error", &batonv1.UpdateError{Code: "FAILED", Message: err.Error(), Retryable: true}
	}
	if stopping.Err() == nil {
		update.ClaimNext = claimRequest(0)
	}
	return update
}

func main() {
	flag.Parse()
	conn, err := grpc.NewClient(*server, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	jobs := batonv1.NewJobServiceClient(conn)
	stopping, end := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer end()
	for stopping.Err() == nil {
		since := time.Now()
		// Let end at a stop too: it may bring a run, which is then handed back.
		answer, err := call(stopping, jobs.ClaimNext, claimRequest(wait))
		if err != nil {
			log.Fatal(err)
		}
		for claims := answer.Claims; len(claims) > 0; {
			update := work(stopping, jobs, claims[0], since)
			since = time.Now()
			reported, err := call(stopping, jobs.UpdateStatus, update)
			log.Println(update.RunId, update.Status, err)
			claims = reported.GetClaims()
		}
	}
}
