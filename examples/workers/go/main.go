// Command worker claims the runs of one stage, works on one at a time, and keeps its lease meanwhile.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	batonv1 "baton/examples/ci/run/gen/baton/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// gRPC repeats a call, with jitter; the request_id and the lease token make that harmless.
const retries = `{"methodConfig": [{"name": [{"service": "baton.v1.JobService"}], "waitForReady": true,
	"timeout": "60s", "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.2s", "maxBackoff": "10s",
	"backoffMultiplier": 3, "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]}}]}`

var stage, worker = cmp.Or(os.Getenv("STAGE"), "initialize"), "go-" + rand.Text()
var lease, _ = time.ParseDuration(cmp.Or(os.Getenv("LEASE_S"), "30") + "s")
var waiting = map[string]string{"initialize": "new", "run": "initialized"}[stage]
var done = map[string]string{"initialize": "initialized", "run": "success"}[stage]
var errCanceled = errors.New("cancel requested")

// handle is the work: yours goes here. It ends when ctx does; another error fails the attempt.
func handle(ctx context.Context, run *batonv1.Run) (*structpb.Struct, error) {
	input := run.Input.GetFields()
	select {
	case <-time.After(time.Duration(input["tenths"].GetNumberValue()) * 100 * time.Millisecond):
	case <-ctx.Done():
	}
	if float64(run.Attempt) <= input["failures"].GetNumberValue() {
		return nil, errors.New("an attempt that was to fail")
	}
	return structpb.NewStruct(map[string]any{"by": "go"})
}

func claimNext(wait time.Duration) *batonv1.ClaimNextRequest {
	return &batonv1.ClaimNextRequest{Stage: stage, WorkerId: worker, RequestId: rand.Text(),
		Wait: durationpb.New(wait), LeaseDuration: durationpb.New(lease)}
}

// work does one run and reports how it ended, and gives the next one.
func work(stopping context.Context, jobs batonv1.JobServiceClient, claim *batonv1.Claim) []*batonv1.Claim {
	ctx, stop := context.WithCancelCause(stopping)
	defer stop(nil)
	go func() {
		held := []*batonv1.LeaseExtension{{RunId: claim.Run.Id, LeaseToken: claim.LeaseToken}}
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(lease / 3):
			}
			call, end := context.WithTimeout(ctx, lease/6)
			answer, err := jobs.ExtendLeases(call, &batonv1.ExtendLeasesRequest{Leases: held})
			end() // after an error the lease may be lost; baton/client would stop by its own clock too
			if err == nil && answer.Results[0].Outcome == batonv1.LeaseOutcome_LEASE_OUTCOME_CANCEL_REQUESTED {
				stop(errCanceled)
			} else if err == nil && answer.Results[0].Outcome == batonv1.LeaseOutcome_LEASE_OUTCOME_LEASE_LOST {
				stop(nil)
			}
		}
	}()
	update := &batonv1.UpdateStatusRequest{RunId: claim.Run.Id, LeaseToken: claim.LeaseToken, Status: waiting}
	output, err := handle(ctx, claim.Run)
	if context.Cause(ctx) == errCanceled {
		update.Status = "canceled"
	} else if ctx.Err() == nil && err != nil {
		update.Status, update.Error = "error", &batonv1.UpdateError{Message: err.Error(), Retryable: true}
	} else if ctx.Err() == nil {
		update.Status, update.Output = done, output
	} // else a stop hands the run back; with a lost lease the server refuses that
	if stopping.Err() == nil {
		update.ClaimNext = claimNext(0)
	}
	answer, err := jobs.UpdateStatus(context.Background(), update)
	log.Println(update.RunId, update.Status, err)
	return answer.GetClaims()
}

func main() {
	stopping, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	conn, err := grpc.NewClient(cmp.Or(os.Getenv("BATON"), "127.0.0.1:50051"),
		grpc.WithDefaultServiceConfig(retries), grpc.WithTransportCredentials(insecure.NewCredentials()))
	for jobs := batonv1.NewJobServiceClient(conn); err == nil && stopping.Err() == nil; {
		var answer *batonv1.ClaimNextResponse // let end at a stop: what it brings is then handed back
		answer, err = jobs.ClaimNext(context.Background(), claimNext(5*time.Second))
		for claims := answer.GetClaims(); len(claims) > 0; {
			claims = work(stopping, jobs, claims[0])
		}
	}
	if err != nil {
		log.Fatal(err)
	}
}
