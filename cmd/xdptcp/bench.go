// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/xdptcp/xdptcp/userspace/services"
	"github.com/xdptcp/xdptcp/vmtest/flood"
)

func newBench(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "measure xdptcp in a lab of two network namespaces",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return errUsage{fmt.Errorf("bench: no such benchmark: %q: there is flood", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBenchFlood(e), newBenchServe(e))
	return cmd
}

func newBenchFlood(e *env) *cobra.Command {
	var (
		opts          flood.Options
		rates, rivals []string
		asJSON        bool
	)
	cmd := &cobra.Command{
		Use:   "flood [--duration D] [--rates R,R...] [--rounds N] [--6] [--rival RIVAL]... [--json]",
		Short: "how many SYNs are answered, and what honest clients get during a flood",
		Long: `flood measures, on a veth pair between two network namespaces that it makes for this:

  - how many SYNs one CPU sends, answers and counts in a second: by xdptcp, and by an XDP program that
    only swaps the MAC addresses and sends the frame back, which is the most that can be had here;
  - how many connections honest clients get (connect, one small request, close; 16 at a time)
    during floods of several rates, that share the machine's CPUs with clients and server.

Rivals are measured beside it, in turns, with --rival:

  kernel             a listener of the kernel's, with SYN cookies
  synproxy           netfilter's SYNPROXY in front of that; needs nft (Debian: nftables), with --6 ip6tables (iptables)
  xdp_synproxy=FILE  the XDP program of the kernel's selftest in front of SYNPROXY; FILE is its BPF object, which
                     vmtest/rivals.sh in xdptcp's source makes

It floods nothing else: no flag names an interface or an address. Nothing of it outlives the command,
however it ends. On a machine that does other things at the same time the figures are too low.`,
		DisableFlagsInUseLine: true,
		Args:                  takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.Duration <= 0 || opts.Duration > flood.MaxDuration {
				return errUsage{fmt.Errorf("--duration %v: want more than nothing, and at most %v", opts.Duration, flood.MaxDuration)}
			}
			if opts.Rounds < 1 {
				return errUsage{fmt.Errorf("--rounds %d: want at least 1", opts.Rounds)}
			}
			for _, text := range rates {
				rate, err := flood.ParseRate(text)
				if err != nil {
					return errUsage{fmt.Errorf("--rates: %w", err)}
				}
				opts.Rates = append(opts.Rates, rate)
			}
			for _, text := range rivals {
				rival, err := flood.ParseRival(text)
				if err != nil {
					return errUsage{fmt.Errorf("--rival: %w", err)}
				}
				if slices.ContainsFunc(opts.Rivals, func(r flood.Rival) bool { return r.Server == rival.Server }) {
					return errUsage{fmt.Errorf("--rival: %s is given twice", rival.Server)}
				}
				opts.Rivals = append(opts.Rivals, rival)
			}
			opts.Binary = "/proc/self/exe" // also if the file has gone meanwhile
			opts.Progress = func(s string) { fmt.Fprintln(e.stderr, s) }
			report, err := flood.Run(cmd.Context(), opts)
			if err != nil {
				return err
			}
			if asJSON {
				out := json.NewEncoder(e.stdout)
				out.SetIndent("", "  ")
				return out.Encode(report)
			}
			return report.WriteText(e.stdout)
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&opts.Duration, "duration", 2*time.Second, "`time` of each measurement, up to 1m")
	flags.StringSliceVar(&rates, "rates", strings.Split("0,100k,250k,500k,1M,max", ","), "`SYN/s` of the floods that clients are served under; empty for none")
	flags.IntVar(&opts.Rounds, "rounds", 3, "how often each measurement is made; the median counts")
	flags.BoolVar(&opts.IPv6, "6", false, "IPv6 instead of IPv4")
	flags.StringSliceVar(&rivals, "rival", nil, "measure another `server`, too: kernel, synproxy or xdp_synproxy=FILE; may be repeated")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// newBenchServe is what the rivals serve: the http service of `attach` on a listener of the kernel's. flood starts
// it in a namespace of its own.
func newBenchServe(e *env) *cobra.Command {
	return &cobra.Command{
		Use:    "serve ADDR:PORT",
		Short:  "the http service on the kernel's TCP, for bench flood --rival",
		Hidden: true,
		Args:   takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			service, err := services.New("http", services.Env{Log: e.log})
			if err != nil {
				return err
			}
			var config net.ListenConfig
			config.SetMultipathTCP(false)
			ln, err := config.Listen(cmd.Context(), "tcp", args[0])
			if err != nil {
				return err
			}
			context.AfterFunc(cmd.Context(), func() { _ = ln.Close() })
			fmt.Fprintf(e.stdout, "ready address=%s\n", ln.Addr())
			return service.Serve(ln)
		},
	}
}
