// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/loader"
)

func newStatus(e *env) *cobra.Command {
	var asJSON bool
	var pinDir string
	cmd := &cobra.Command{
		Use:   "status [IFACE] [--json]",
		Short: "show what is attached, and what it has counted",
		Long: `status shows the xdptcp on IFACE, or on every interface. It reads the kernel, not the process that
attached it, and changes nothing.

Exit codes: 0 attached, 3 not attached, 4 attached but degraded (generic mode, or no living daemon),
1 error.`,
		DisableFlagsInUseLine: true,
		Args:                  takes(0, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			states, err := loader.Inspect(name)
			if err != nil {
				return err
			}
			if asJSON {
				err = statusJSON(e, states, pinDir)
			} else {
				err = statusText(e, states, pinDir)
			}
			if err != nil {
				return err
			}
			for _, s := range states {
				if s.Degraded() != nil {
					return errDegraded
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&pinDir, "pin", loader.DefaultPinDir, pinHelp)
	return cmd
}

// statusReport is the form of `status --json`. Fields are added, never renamed.
type statusReport struct {
	Interfaces []statusInterface `json:"interfaces"`
}

type statusInterface struct {
	Interface string                       `json:"interface"`
	Mode      loader.Mode                  `json:"mode"`     // native, generic
	Degraded  bool                         `json:"degraded"` // generic, or no living daemon
	ProgramID uint32                       `json:"program_id"`
	Loaded    time.Time                    `json:"loaded"`
	Queues    int                          `json:"queues"`
	Services  []string                     `json:"services"`      // [ADDR]:PORT=ACTION
	Flows     int                          `json:"flow_capacity"` // of each table, IPv4 and IPv6
	Packets   map[string]map[string]uint64 `json:"packets"`       // by verdict and reason
	Armed     []string                     `json:"armed"`         // those of the services whose SYNs are answered
	Daemon    statusDaemon                 `json:"daemon"`
	Pin       string                       `json:"pin"` // path of the link's pin; empty if there is none to be seen

	Shield   loader.Shield `json:"shield,omitempty"`    // of kernel services: always, auto
	ShieldUp bool          `json:"shield_up,omitempty"` // with auto: SYNs are so many that XDP answers them
}

// statusDaemon is the process that serves, or did.
type statusDaemon struct {
	PID     int     `json:"pid"`
	Alive   bool    `json:"alive"`    // if not, packets pass to the kernel, but for kernel services that outlive it
	DeadFor float64 `json:"dead_for"` // seconds; 0 if alive
}

func statusJSON(e *env, states []loader.State, pinDir string) error {
	report := statusReport{Interfaces: []statusInterface{}}
	for _, s := range states {
		packets := map[string]map[string]uint64{}
		for i, n := range s.Reasons {
			verdict, reason := bpf.ReasonLabels(bpf.Reason(i))
			if packets[verdict] == nil {
				packets[verdict] = map[string]uint64{}
			}
			packets[verdict][reason] = n
		}
		report.Interfaces = append(report.Interfaces, statusInterface{
			Interface: s.Interface, Mode: s.Mode, Degraded: s.Degraded() != nil, ProgramID: s.ProgramID,
			Loaded: s.Loaded.UTC().Truncate(time.Second), Queues: s.Queues, Services: s.Services, Flows: s.Flows, Packets: packets,
			Armed:  servicesThatAre(s, true),
			Daemon: statusDaemon{PID: s.PID, Alive: s.Alive, DeadFor: s.DeadFor.Seconds()},
			Pin:    s.Pin(pinDir),
			Shield: s.Shield, ShieldUp: s.ShieldUp,
		})
	}
	out := json.NewEncoder(e.stdout)
	out.SetIndent("", "  ")
	return out.Encode(report)
}

// servicesThatAre lists the services that are armed, or those that are not.
func servicesThatAre(s loader.State, armed bool) []string {
	list := []string{}
	for i, svc := range s.Services {
		if s.Armed[i] == armed {
			list = append(list, svc)
		}
	}
	return list
}

func daemonText(s loader.State) string {
	without := "packets pass to the kernel"
	if s.Outlives {
		without = "kernel services go on, all other packets pass to the kernel"
	}
	switch {
	case s.Alive:
		return fmt.Sprintf("pid %d, alive", s.PID)
	case s.DeadFor == 0:
		return fmt.Sprintf("pid %d, not serving: %s", s.PID, without)
	}
	return fmt.Sprintf("pid %d, dead for %v: %s", s.PID, s.DeadFor.Round(100*time.Millisecond), without)
}

func statusText(e *env, states []loader.State, pinDir string) error {
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	for i, s := range states {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "interface\t%s\n", s.Interface)
		mode := string(s.Mode)
		if s.Mode == loader.Generic {
			mode += " (degraded: a fraction of native speed)"
		}
		fmt.Fprintf(w, "mode\t%s\n", mode)
		fmt.Fprintf(w, "daemon\t%s\n", daemonText(s))
		fmt.Fprintf(w, "services\t%s\n", strings.Join(s.Services, " "))
		if list := servicesThatAre(s, false); len(list) > 0 {
			fmt.Fprintf(w, "disarmed\t%s\n", strings.Join(list, " "))
		}
		switch {
		case s.Shield == loader.ShieldAlways:
			fmt.Fprintf(w, "shield\talways: XDP answers the SYNs of kernel services\n")
		case s.Shield == loader.ShieldAuto && s.ShieldUp:
			fmt.Fprintf(w, "shield\tup: SYNs are many, XDP answers them\n")
		case s.Shield == loader.ShieldAuto:
			fmt.Fprintf(w, "shield\tdown: SYNs are few, the kernel answers them\n")
		}
		fmt.Fprintf(w, "queues\t%d\n", s.Queues)
		fmt.Fprintf(w, "program\tid %d, loaded %s ago\n", s.ProgramID, time.Since(s.Loaded).Truncate(time.Second))
		fmt.Fprintf(w, "flows\tat most %d for IPv4, as many for IPv6\n", s.Flows)
		if pin := s.Pin(pinDir); pin != "" {
			fmt.Fprintf(w, "pin\t%s\n", pin)
		}
		writeCounters(w, s.Reasons)
	}
	return w.Flush()
}
