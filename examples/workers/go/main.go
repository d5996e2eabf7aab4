// Command worker claims the runs of one stage, works on one at a time, and keeps its lease meanwhile.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	pb "baton-jobs/gen/go/baton/v1"
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

// handle is the work: yours goes here. It ends when ctx does; another error fails the attempt.
func handle(ctx context.Context, run *pb.Run) (*structpb.Struct, error) {
	input := run.Input.GetFields()
	select {
	case <-time.After(time.Duration(input["tenths"].GetNumberValue()) * 100 * time.Millisecond):
	case <-ctx.Done():
	}
	if float64(run.Attempt) <= input["failures"].GetNumberValue() {
		return nil, fmt.Errorf("attempt %d was to fail", run.Attempt)
	}
	return structpb.NewStruct(map[string]any{"by": "go"})
}

func claimNext(wait time.Duration) *pb.ClaimNextRequest {
	return &pb.ClaimNextRequest{Stage: stage, WorkerId: worker, RequestId: rand.Text(),
		Wait: durationpb.New(wait), LeaseDuration: durationpb.New(lease)}
}

// work does one run and reports how it ended, and gives the next one.
func work(stopping context.Context, jobs pb.JobServiceClient, claim *pb.Claim) []*pb.Claim {
	ctx, stop := context.WithCancel(stopping)
	defer stop()
	go func() {
		held := []*pb.LeaseExtension{{RunId: claim.Run.Id, LeaseToken: claim.LeaseToken}}
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(lease / 3):
				call, end := context.WithTimeout(ctx, lease/6)
				answer, err := jobs.ExtendLeases(call, &pb.ExtendLeasesRequest{Leases: held})
				end() // after an error the lease may be lost; baton/client would stop by its own clock too
				if err == nil && answer.Results[0].Outcome != pb.LeaseOutcome_LEASE_OUTCOME_OK {
					stop()
				}
			}
		}
	}()
	update := &pb.UpdateStatusRequest{RunId: claim.Run.Id, LeaseToken: claim.LeaseToken, Status: waiting}
	switch output, err := handle(ctx, claim.Run); {
	case stopping.Err() != nil: // it is handed back
	case ctx.Err() != nil: // or the lease is lost, and the server refuses this
		update.Status = "canceled"
	case err != nil:
		update.Status = "error"
		update.Error = &pb.UpdateError{Message: fmt.Sprintf("%.4000s", err), Retryable: true}
	default:
		update.Status, update.Output = done, output
	}
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
	if err != nil {
		log.Fatal(err)
	}
	jobs := pb.NewJobServiceClient(conn)
	for stopping.Err() == nil { // a claim is let end at a stop: what it brings is then handed back
		answer, err := jobs.ClaimNext(context.Background(), claimNext(5*time.Second))
		if err != nil {
			log.Fatal(err)
		}
		for claims := answer.Claims; len(claims) > 0; {
			claims = work(stopping, jobs, claims[0])
		}
	}
}
