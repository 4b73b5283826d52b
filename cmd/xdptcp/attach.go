// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/xdptcp/xdptcp/loader"
	"github.com/xdptcp/xdptcp/userspace/services"
)

func newAttach(e *env) *cobra.Command {
	var (
		listen []string
		mode   string
		limits limitFlags
		opts   daemonOptions
	)
	cmd := &cobra.Command{
		Use:   "attach IFACE [--listen [ADDR|PREFIX]:PORT=ACTION]... [--mode auto|native|generic] [--metrics ADDR:PORT]",
		Short: "answer handshakes on an interface and serve the connections, until SIGINT or SIGTERM",
		Long: `attach puts the XDP program on IFACE and serves the connections in the foreground. When it serves,
it prints one line that starts with "ready". SIGINT or SIGTERM close the connections and detach.

Only packets to a service's port and address are taken. Without ADDR that is any of the host's own
addresses, as they come and go; with ADDR or PREFIX just those, whether the host has them or not. Of
several services on a port the one with the longest prefix counts. All else passes to the kernel untouched.

Actions: ` + strings.Join(services.Actions(), ", ") + `.`,
		DisableFlagsInUseLine: true,
		Args:                  takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.loader.Interface = args[0]
			opts.loader.Mode = loader.Mode(mode)
			opts.loader.Log = e.log
			var err error
			if opts.loader.Services, err = parseServices(listen); err != nil {
				return err
			}
			switch opts.loader.Mode {
			case loader.Auto, loader.Native, loader.Generic:
			default:
				return errUsage{fmt.Errorf("--mode %q: want auto, native or generic", mode)}
			}
			if n := opts.loader.Flows; n < 1 || n > loader.MaxFlows {
				return errUsage{fmt.Errorf("--flows %d: want 1 to %d", n, loader.MaxFlows)}
			}
			for flag, file := range map[string]string{"allow": opts.loader.Allow, "deny": opts.loader.Deny} {
				if cmd.Flags().Changed(flag) && file == "" {
					return errUsage{fmt.Errorf("--%s '': want the name of a file; leave the flag out for no such list", flag)}
				}
			}
			if opts.loader.Limits, err = limits.read(); err != nil {
				return err
			}
			if r := opts.loader.KeyRotation; r != 0 && r < time.Second {
				return errUsage{fmt.Errorf("--key-rotation %v: want at least 1s, or 0 for never: a client has one to two periods to finish its handshake", r)}
			}
			if opts.loader.KeyRotation == 0 {
				opts.loader.KeyRotation = -1 // what 0 means on the command line
			}
			d, err := startDaemon(opts, e.log)
			if err != nil {
				return err
			}
			defer d.close()
			for _, advice := range d.responder.Advice() {
				e.log.Info(advice, "interface", d.responder.Interface())
			}
			if bytes, err := d.responder.FlowMemory(); err != nil {
				e.log.Warn("memory of the flow tables", "err", err)
			} else {
				e.log.Info("memory of the flow tables, as the kernel counts it", "flows", 2*d.responder.Flows(), "bytes", bytes)
			}
			if _, err := fmt.Fprintln(e.stdout, d.readyLine()); err != nil {
				return err
			}
			return d.wait(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&listen, "listen", []string{":8080=http"}, "a service, `[ADDR|PREFIX]:PORT=ACTION`; may be repeated")
	flags.StringVar(&mode, "mode", "auto", "how to run XDP: auto, native or generic; auto falls back to generic with a warning")
	flags.StringVar(&opts.metrics, "metrics", "127.0.0.1:9400", "`ADDR:PORT` for Prometheus; empty for none")
	flags.IntVar(&opts.loader.Flows, "flows", loader.DefaultFlows, "`capacity` of each flow table, IPv4 and IPv6; at most 10000000")
	flags.DurationVar(&opts.loader.KeyRotation, "key-rotation", loader.DefaultKeyRotation, "`period` after which the cookie's key changes; 0 for never")
	flags.StringVar(&opts.loader.Allow, "allow", "", "`FILE` of addresses and prefixes that may connect, one a line; all others may not; followed when it changes")
	flags.StringVar(&opts.loader.Deny, "deny", "", "`FILE` of addresses and prefixes that may not connect; the longest match of both lists counts")
	limits.register(cmd)
	flags.BoolVar(&opts.loader.Takeover, "takeover", false, "take new connections to ports that a kernel socket holds")
	return cmd
}

// parseServices reads the values of --listen.
func parseServices(listen []string) ([]loader.Service, error) {
	var list []loader.Service
	for _, text := range listen {
		s, err := loader.ParseService(text)
		if err != nil {
			return nil, errUsage{fmt.Errorf("--listen %w", err)}
		}
		if !known(s.Action) {
			return nil, errUsage{fmt.Errorf("--listen %q: unknown action %q: there are %s", text, s.Action, strings.Join(services.Actions(), ", "))}
		}
		list = append(list, s)
	}
	if err := loader.CheckServices(list); err != nil {
		return nil, errUsage{fmt.Errorf("--listen: %w", err)}
	}
	return list, nil
}

func known(action string) bool {
	for _, a := range services.Actions() {
		if a == action {
			return true
		}
	}
	return false
}
