// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/xdptcp/xdptcp/loader"
)

func newDoctor(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor IFACE [--json]",
		Short: "say what would stop or degrade xdptcp on an interface, and what mends it",
		Long: `doctor looks at the kernel and at IFACE, and says what would stop or degrade xdptcp there: a line for
each check, below it the command that mends it. It changes nothing: programs that it loads to see
whether the kernel takes them are closed again, and attached to nothing.

Verdicts: ok, note (good to know), warn (it attaches, but degraded), fail (it does not attach).

Exit codes: 0 nothing but ok and notes, 4 a warn, 1 a fail or an error.`,
		DisableFlagsInUseLine: true,
		Args:                  takes(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			d, err := loader.Diagnose(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				err = doctorJSON(e, d)
			} else {
				err = doctorText(e, d)
			}
			if err != nil {
				return err
			}
			switch d.Verdict() {
			case loader.Fail:
				return fmt.Errorf("doctor %s: stopped by: %s", d.Interface, strings.Join(d.Named(loader.Fail), ", "))
			case loader.Warn:
				return errDegraded
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// doctorReport is the form of `doctor --json`. Fields are added, never renamed; so are checks.
type doctorReport struct {
	Interface string         `json:"interface"`
	Kernel    string         `json:"kernel"`    // its release
	Driver    string         `json:"driver"`    // empty: it doesn't tell
	Verdict   loader.Verdict `json:"verdict"`   // the worst of the checks'
	Mode      string         `json:"mode"`      // that attach would reach: native, generic, auto (only trying tells), none
	ZeroCopy  bool           `json:"zero_copy"` // frames would go to user space without a copy
	Checks    []doctorCheck  `json:"checks"`
}

type doctorCheck struct {
	Name    string         `json:"name"`
	Verdict loader.Verdict `json:"verdict"` // ok, note, warn, fail
	Found   string         `json:"found"`
	Why     string         `json:"why"`
	Command string         `json:"command,omitempty"` // that mends it, or shows more
}

func doctorJSON(e *env, d *loader.Diagnosis) error {
	report := doctorReport{
		Interface: d.Interface, Kernel: d.Kernel, Driver: d.Driver, Verdict: d.Verdict(), Mode: string(d.Mode), ZeroCopy: d.ZeroCopy,
	}
	if d.Mode == "" {
		report.Mode = "none"
	}
	for _, c := range d.Checks {
		report.Checks = append(report.Checks, doctorCheck(c))
	}
	out := json.NewEncoder(e.stdout)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	return out.Encode(report)
}

func doctorText(e *env, d *loader.Diagnosis) error {
	width := 0
	for _, c := range d.Checks {
		width = max(width, len(c.Name))
	}
	p := printer{out: e.stdout}
	for _, c := range d.Checks {
		p.printf("%-4s  %-*s  %s", c.Verdict, width, c.Name, c.Found)
		if c.Verdict != loader.OK {
			p.printf(": %s", c.Why)
		}
		p.printf("\n")
		if c.Command != "" {
			p.printf("      → %s\n", c.Command)
		}
	}
	p.printf("\n%s: %s\n", d.Interface, prognosis(d))
	return p.err
}

// prognosis is the diagnosis in a sentence.
func prognosis(d *loader.Diagnosis) string {
	var text string
	switch d.Mode {
	case loader.Native:
		text = "native XDP would be reached, without zero-copy"
		if d.ZeroCopy {
			text = "native XDP would be reached, with zero-copy"
		}
	case loader.Generic:
		text = "only generic XDP would be reached, at a fraction of native speed, without zero-copy"
	case loader.Auto:
		text = "native XDP may be reached, which only attaching tells; generic otherwise"
	default:
		return "xdptcp would not work here: " + strings.Join(d.Named(loader.Fail), ", ")
	}
	if warnings := d.Named(loader.Warn); len(warnings) > 0 {
		text += "; degraded by: " + strings.Join(warnings, ", ")
	}
	return text
}
