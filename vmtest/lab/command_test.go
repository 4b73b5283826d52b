// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestCommandsRunInside(t *testing.T) {
	l := ForTest(t, Options{})
	for _, h := range []*Host{l.Server, l.Client} {
		want := nsOf(t, h)
		for name, run := range map[string]func(*Cmd) ([]byte, error){
			"Output":         (*Cmd).Output,
			"CombinedOutput": (*Cmd).CombinedOutput,
			"Run": func(c *Cmd) ([]byte, error) {
				var b bytes.Buffer
				c.Stdout = &b
				err := c.Run()
				return b.Bytes(), err
			},
			"Start and Wait": func(c *Cmd) ([]byte, error) {
				var b bytes.Buffer
				c.Stdout = &b
				if err := c.Start(); err != nil {
					return nil, err
				}
				err := errors.Join(c.Wait(), c.Wait())
				return b.Bytes(), err
			},
		} {
			out, err := run(h.Command("readlink", "/proc/self/ns/net"))
			if got := strings.TrimSpace(string(out)); err != nil || got != want {
				t.Errorf("%s: %s ran in %q (%v), want %s", h.Name, name, got, err, want)
			}
		}
	}
	allOutside(t, l)
}

func TestCommandsFailLikeExecs(t *testing.T) {
	l := ForTest(t, Options{})
	_, err := l.Server.Command("sh", "-c", "echo oops >&2; exit 3").Output()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != 3 || string(exit.Stderr) != "oops\n" {
		t.Errorf("exit 3: %v", err)
	}
	if err := l.Server.Command("/no/such/program").Run(); err == nil || !strings.Contains(err.Error(), "server: start /no/such/program") {
		t.Errorf("no such program: %v", err)
	}
	if err := l.Server.Command("true").Wait(); err == nil {
		t.Error("Wait without Start succeeded")
	}
}

func TestTheEndOfItsContextKillsACommandAndItsChildren(t *testing.T) {
	l := ForTest(t, Options{})
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	// The inner sleep holds the pipe: unless it dies too, Output waits for it.
	_, err := l.Server.CommandContext(ctx, "sh", "-c", "sleep 1000; true").Output()
	if err == nil || time.Since(start) > 5*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	allOutside(t, l)
}
