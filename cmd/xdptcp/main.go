// SPDX-License-Identifier: Apache-2.0

// Command xdptcp answers TCP handshakes in XDP and serves the connections in Go.
//
// Noun commands (status, doctor, keys list, version) change nothing; verb commands (attach, detach, arm, disarm,
// keys add, demo, bench) do.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/xdptcp/xdptcp/loader"
)

// Exit codes. Scripts rely on them.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitNotAttached = 3
	exitDegraded    = 4 // attached, but in generic mode or without a living daemon; or the doctor says that it would be
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// env is what a command may use of the world: tests give their own.
type env struct {
	stdout, stderr io.Writer
	log            *slog.Logger
}

// errUsage marks errors in what was typed.
type errUsage struct{ error }

// errDegraded is no failure: something is attached, and serves less well than it could.
var errDegraded = errors.New("degraded")

// run is main without the process: it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	e := &env{stdout: stdout, stderr: stderr}
	root := newRoot(e)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var usage errUsage
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errDegraded):
		return exitDegraded
	}
	fmt.Fprintf(stderr, "xdptcp: %v\n", err)
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, loader.ErrNotAttached):
		return exitNotAttached
	}
	return exitError
}

func newRoot(e *env) *cobra.Command {
	var logFormat, logLevel string
	root := &cobra.Command{
		Use:   "xdptcp",
		Short: "answers TCP handshakes in XDP and serves the connections in Go",
		Long: `xdptcp answers TCP's opening move on the network card: an XDP program turns each SYN into a
SYN/ACK and keeps no memory of strangers, so a SYN flood costs next to nothing. Clients that
finish the handshake are served by a TCP in Go over AF_XDP.

Exit codes: 0 ok, 1 error, 2 usage, 3 not attached, 4 attached but degraded (generic mode, or no living daemon).`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			log, err := newLog(e.stderr, logFormat, logLevel)
			e.log = log
			return err
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return errUsage{err} })
	root.PersistentFlags().StringVar(&logFormat, "log-format", "text", "format of the log on stderr: text or json")
	root.PersistentFlags().StringVar(&logLevel, "log-level", "info", "least level that is logged: debug, info, warn or error")
	root.AddCommand(
		newAttach(e),
		newDetach(e),
		newArm(e),
		newDisarm(e),
		newStatus(e),
		newDoctor(e),
		newKeys(e),
		newDemo(e),
		newBench(e),
		newVersion(e),
	)
	return root
}

func newLog(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, errUsage{fmt.Errorf("--log-level %q: want debug, info, warn or error", level)}
	}
	opts := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, errUsage{fmt.Errorf("--log-format %q: want text or json", format)}
}

// noCommand refuses what a command with subcommands finds instead of one.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return errUsage{fmt.Errorf("unknown command %q: see %s --help", args[0], cmd.CommandPath())}
	}
	return nil
}

// takes refuses a number of arguments that is not least to most, as a usage error.
func takes(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return errUsage{fmt.Errorf("%s: argument missing: usage: %s", cmd.Name(), cmd.UseLine())}
		case len(args) > most:
			return errUsage{fmt.Errorf("%s: %q is too much: usage: %s", cmd.Name(), args[most], cmd.UseLine())}
		}
		return nil
	}
}
