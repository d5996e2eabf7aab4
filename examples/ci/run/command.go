package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/structpb"
)

const (
	// tailBytes of the output are kept and reported: the end is where tests say what failed.
	tailBytes = 32 * 1024
	// lineRunes and messageRunes keep what people read short, and within Baton's limit for a status_message.
	lineRunes    = 200
	messageRunes = 1000
	// killDelay is what a command gets between being asked to end and being killed.
	killDelay = 5 * time.Second
)

// usual is the test command of a repository that names none, by the first of these files that it has.
var usual = []struct{ file, command string }{
	{"package-lock.json", "npm ci && npm test"},
	{"package.json", "npm test"},
	{"go.mod", "go test ./..."},
	{"Cargo.toml", "cargo test"},
	{"pyproject.toml", "python3 -m pytest"},
	{"Makefile", "make test"},
}

// isInside tells whether path is an existing folder below dir. What a run says about itself is not to be trusted with
// the removal of a folder.
func isInside(dir, path string) bool {
	relative, err := filepath.Rel(dir, path)
	if err != nil || relative == "." || !filepath.IsLocal(relative) {
		return false
	}
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// commandOf is the command that the run names, a line for the shell or a list of arguments, or else the usual one.
func commandOf(input *structpb.Value, workdir string) ([]string, error) {
	if line := input.GetStringValue(); line != "" {
		return []string{"sh", "-c", line}, nil
	}
	if values := input.GetListValue().GetValues(); len(values) > 0 {
		argv := make([]string, len(values))
		for i, value := range values {
			argv[i] = value.GetStringValue()
		}
		return argv, nil
	}
	for _, known := range usual {
		if _, err := os.Stat(filepath.Join(workdir, known.file)); err == nil {
			return []string{"sh", "-c", known.command}, nil
		}
	}
	return nil, fmt.Errorf("the run names no command and %s has no file that tells one", workdir)
}

type result struct {
	exitCode int
	duration time.Duration
	err      error // set when the command could not be run at all
}

// execute runs the command until it ends or ctx does. Nothing that it started is left afterwards.
func execute(ctx context.Context, workdir string, command []string, output *tail) result {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = workdir
	cmd.Env = append(os.Environ(), "CI=true")
	cmd.Stdout, cmd.Stderr = output, output
	// A process group of its own, so that a signal reaches what the command has started as well.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = killDelay
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return result{err: err}
	}
	err := cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	// Other errors stand in the exit code, which is -1 after a signal; or something left in the background held the
	// output open (ErrWaitDelay), which is no failure of the tests.
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil {
		return result{err: err}
	}
	return result{exitCode: cmd.ProcessState.ExitCode(), duration: time.Since(started)}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	data []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if extra := len(t.data) - tailBytes; extra > 0 {
		t.data = t.data[extra:]
	}
	return len(p), nil
}

// String is the text in what was kept: output may be anything, while Baton takes UTF-8 without U+0000.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ReplaceAll(strings.ToValidUTF8(string(t.data), "\uFFFD"), "\x00", "\uFFFD")
}

func (t *tail) lastLine() string {
	text := strings.TrimSpace(t.String())
	return firstRunes(text[strings.LastIndexByte(text, '\n')+1:], lineRunes)
}

func firstRunes(text string, limit int) string {
	runes := []rune(text)
	return string(runes[:min(len(runes), limit)])
}
