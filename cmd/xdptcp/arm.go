// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/xdptcp/xdptcp/loader"
)

func newArm(e *env) *cobra.Command {
	return armCommand(e, true, &cobra.Command{
		Use:   "arm IFACE [PORT]...",
		Short: "let XDP answer the SYNs of services that were disarmed",
		Long: `arm lets XDP answer the SYNs of the services on IFACE, or of those on the ports given: see disarm.

Exit codes: 0 they are armed, 3 not attached, 1 error.`,
	})
}

func newDisarm(e *env) *cobra.Command {
	return armCommand(e, false, &cobra.Command{
		Use:   "disarm IFACE [PORT]...",
		Short: "leave the SYNs of services to the kernel; connections go on",
		Long: `disarm leaves the SYNs of the services on IFACE, or of those on the ports given, to the kernel, until
they are armed again. Connections that exist go on, and the program stays where it is.

Exit codes: 0 they are disarmed, 3 not attached, 1 error.`,
	})
}

func armCommand(e *env, armed bool, cmd *cobra.Command) *cobra.Command {
	cmd.DisableFlagsInUseLine = true
	cmd.Args = takes(1, 1+65535)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		var ports []uint16
		for _, text := range args[1:] {
			port, err := strconv.ParseUint(text, 10, 16)
			if err != nil || port == 0 {
				return errUsage{fmt.Errorf("port %q is not a number from 1 to 65535", text)}
			}
			ports = append(ports, uint16(port))
		}
		list, err := loader.Arm(args[0], ports, armed)
		if err != nil {
			return err
		}
		state := "disarmed"
		if armed {
			state = "armed"
		}
		for _, a := range list {
			already := ""
			if !a.Changed {
				already = "already "
			}
			if _, err := fmt.Fprintf(e.stdout, "%s: %s%s\n", a.Service, already, state); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}
