// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
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
		shield string
		opts   daemonOptions
	)
	cmd := &cobra.Command{
		Use:   "attach IFACE [--listen [ADDR|PREFIX]:PORT=ACTION]... [--mode auto|native|generic] [--metrics ADDR:PORT] [--replace]",
		Short: "answer handshakes on an interface and serve the connections, until SIGINT or SIGTERM",
		Long: `attach puts the XDP program on IFACE and serves the connections in the foreground. When it serves,
it prints one line that starts with "ready". SIGINT or SIGTERM close the connections and detach.

Only packets to a service's port and address are taken. Without ADDR that is any of the host's own
addresses, as they come and go; with ADDR or PREFIX just those, whether the host has them or not. Of
several services on a port the one with the longest prefix counts. All else passes to the kernel untouched.

The program is pinned, so that it survives its daemon: when that one dies or hangs, packets pass to
the kernel within a second, and the next attach takes over. An interface with a living xdptcp is
refused, unless --replace is given: then the new one takes over without a SYN unanswered, and the
old one closes its connections and ends.

Actions: ` + strings.Join(actions(), ", ") + `. With kernel the connection goes to the
host's own stack, to whoever listens on that port.`,
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
			opts.loader.Shield = loader.Shield(shield)
			if err := checkShield(&opts.loader); err != nil {
				return err
			}
			if r := opts.loader.KeyRotation; r != 0 && r < time.Second {
				return errUsage{fmt.Errorf("--key-rotation %v: want at least 1s, or 0 for never: a client has one to two periods to finish its handshake", r)}
			}
			switch withFile := cmd.Flags().Changed("keys"); {
			case withFile && opts.loader.KeyFile == "":
				return errUsage{errors.New("--keys '': want the name of a key file; without --keys the keys are this process's own")}
			case withFile && cmd.Flags().Changed("key-rotation"):
				return errUsage{errors.New("--keys and --key-rotation exclude each other: the keys of a key file change with the file")}
			case withFile:
				opts.loader.KeyRotation = 0
			case opts.loader.KeyRotation == 0:
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
	flags.IntVar(&opts.loader.Flows, "flows", loader.DefaultFlows, "room for `N` flows in each table, IPv4 and IPv6; at most 10000000")
	flags.DurationVar(&opts.loader.KeyRotation, "key-rotation", loader.DefaultKeyRotation, "`period` after which the cookie's key changes; 0 for never")
	flags.StringVar(&opts.loader.KeyFile, "keys", "", "key `FILE` that all hosts of a shared address have; followed when it changes; see xdptcp keys --help")
	flags.StringVar(&opts.loader.PinDir, "pin", loader.DefaultPinDir, pinHelp)
	flags.BoolVar(&opts.loader.Replace, "replace", false, "take the place of the xdptcp on IFACE, without a SYN unanswered")
	flags.BoolVar(&opts.loader.Disarmed, "disarmed", false, "leave all SYNs to the kernel until xdptcp arm")
	flags.StringVar(&opts.loader.Allow, "allow", "", "`FILE` of addresses and prefixes that may connect, one a line; all others may not; followed when it changes")
	flags.StringVar(&opts.loader.Deny, "deny", "", "`FILE` of addresses and prefixes that may not connect; the longest match of both lists counts")
	limits.register(cmd)
	flags.StringVar(&shield, "shield", string(loader.ShieldAlways), "when XDP answers the SYNs of kernel services: always, or auto: only while they are many")
	flags.IntVar(&opts.loader.ShieldOn, "shield-on", loader.DefaultShieldOn, "with --shield auto: XDP begins to answer at `N` SYNs a second")
	flags.IntVar(&opts.loader.ShieldOff, "shield-off", loader.DefaultShieldOff, "with --shield auto: XDP leaves them to the kernel again below `N` SYNs a second")
	flags.BoolVar(&opts.loader.Outlive, "outlive", false, "go on protecting kernel services when this process is gone")
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
			return nil, errUsage{fmt.Errorf("--listen %q: unknown action %q: there are %s", text, s.Action, strings.Join(actions(), ", "))}
		}
		list = append(list, s)
	}
	if err := loader.CheckServices(list); err != nil {
		return nil, errUsage{fmt.Errorf("--listen: %w", err)}
	}
	return list, nil
}

func known(action string) bool {
	return slices.Contains(actions(), action)
}

// actions are those of the engine's services, and the kernel.
func actions() []string { return append(services.Actions(), loader.ActionKernel) }

func checkShield(o *loader.Options) error {
	switch {
	case o.Shield != loader.ShieldAlways && o.Shield != loader.ShieldAuto:
		return errUsage{fmt.Errorf("--shield %q: want always or auto", o.Shield)}
	case o.ShieldOff < 1:
		return errUsage{fmt.Errorf("--shield-off %d: want at least 1", o.ShieldOff)}
	case o.ShieldOn <= o.ShieldOff:
		return errUsage{fmt.Errorf("--shield-on %d: want more than --shield-off, which is %d", o.ShieldOn, o.ShieldOff)}
	}
	return nil
}
