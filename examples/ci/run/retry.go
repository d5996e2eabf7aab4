package main

import (
	"context"
	"log"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	retryFirst = time.Second
	retryMax   = 15 * time.Second
)

// retry calls until there is an answer: a server that is restarting or busy is waited for, with growing and jittered
// delays. `timeout` is for each try; ctx ends them all.
func retry[T any](ctx context.Context, timeout time.Duration, call func(context.Context) (T, error)) (T, error) {
	for delay := retryFirst; ; delay = min(2*delay, retryMax) {
		callCtx, cancel := context.WithTimeout(ctx, timeout)
		response, err := call(callCtx)
		cancel()
		switch status.Code(err) {
		case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded:
		default:
			return response, err
		}
		select {
		case <-ctx.Done():
			return response, err
		case <-time.After(delay + rand.N(delay/2)):
			log.Printf("trying again: %v", err)
		}
	}
}
