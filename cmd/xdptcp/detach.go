// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/xdptcp/xdptcp/loader"
)

func newDetach(e *env) *cobra.Command {
	var pinDir string
	cmd := &cobra.Command{
		Use:   "detach IFACE",
		Short: "take xdptcp off an interface, whether its daemon lives or not",
		Long: `detach takes xdptcp off IFACE. New connections are the kernel's at once; a living daemon closes those
it has, and ends; then the program comes off, and its pin is removed. It never touches the program
of somebody else.

Exit codes: 0 detached, 3 there was none, 1 error.`,
		DisableFlagsInUseLine: true,
		Args:                  takes(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			d, err := loader.Detach(args[0], pinDir)
			if err != nil {
				return err
			}
			what := fmt.Sprintf("its daemon, pid %d, was dead", d.PID)
			switch {
			case d.Left:
				what = fmt.Sprintf("its daemon, pid %d, has ended", d.PID)
			case d.Runs:
				what = fmt.Sprintf("its daemon, pid %d, still runs, and serves nobody: kill -9 %d ends it", d.PID, d.PID)
			}
			_, err = fmt.Fprintf(e.stdout, "detached from %s: %s\n", args[0], what)
			return err
		},
	}
	cmd.Flags().StringVar(&pinDir, "pin", loader.DefaultPinDir, pinHelp)
	return cmd
}

const pinHelp = "`DIR` on a BPF filesystem where the program is pinned; empty for no pin"
