// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/xdptcp/xdptcp/loader"
)

func newKeys(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys generate|add|activate|drop|list FILE [GEN]",
		Short: "make, change and list the key file of hosts that share an address",
		Long: `Hosts that share an address (anycast, ECMP) must accept each other's cookies: a client's SYN may reach
one of them and its next packet another. They do if all of them run with the same key file:

  xdptcp keys generate FILE         once; then copy FILE to every host, with mode 0600
  xdptcp attach IFACE --keys FILE   on every host; it follows the file when it changes

To change the key, copying FILE to every host after each step:

  xdptcp keys add FILE              a new key, accepted but not used
  xdptcp keys activate FILE GEN     when every host has it: SYN/ACKs are made with it
  xdptcp keys drop FILE GEN         minutes later: the old key's cookies are refused

The file always changes as a whole: copy it under another name into the same directory, then rename it.
A file that others may read or that is damaged is refused, and the old keys stay. list shows
fingerprints, so that hosts can be compared; no command and no log shows a key.`,
		DisableFlagsInUseLine: true,
		Args:                  noCommand,
		RunE:                  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newKeysGenerate(e), newKeysAdd(e), newKeysActivate(e), newKeysDrop(e), newKeysList(e))
	return cmd
}

func newKeysGenerate(e *env) *cobra.Command {
	return &cobra.Command{
		Use:                   "generate FILE",
		Short:                 "write a key file with new keys; FILE must not exist",
		DisableFlagsInUseLine: true,
		Args:                  takes(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			set, err := loader.GenerateKeys()
			if err != nil {
				return err
			}
			if err := loader.CreateKeyFile(args[0], set); err != nil {
				return err
			}
			return sayNext(e, "%[1]s: generation %[2]d is active.\n"+
				"Next: copy it to every host, with mode 0600, and run there: xdptcp attach IFACE --keys %[1]s\n", args[0], set.Active())
		},
	}
}

func newKeysAdd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:                   "add FILE",
		Short:                 "add a key that is accepted, but not used yet",
		DisableFlagsInUseLine: true,
		Args:                  takes(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			generation := 0
			err := change(args[0], func(set loader.KeySet) (_ loader.KeySet, err error) {
				set, generation, err = set.Add()
				return set, err
			})
			if err != nil {
				return err
			}
			return sayNext(e, "%[1]s: generation %[2]d is accepted, and not used yet.\n"+
				"Next: copy the file to every host. When every host has it (the log says \"key file read\",\n"+
				"xdptcp_cookie_keys_accepted has grown): xdptcp keys activate %[1]s %[2]d\n", args[0], generation)
		},
	}
}

func newKeysActivate(e *env) *cobra.Command {
	return &cobra.Command{
		Use:                   "activate FILE GEN",
		Short:                 "make SYN/ACKs with the key of generation GEN",
		DisableFlagsInUseLine: true,
		Args:                  takes(2, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			generation, err := parseGeneration(args[1])
			if err != nil {
				return err
			}
			before := 0
			err = change(args[0], func(set loader.KeySet) (loader.KeySet, error) {
				before = set.Active()
				return set.Activate(generation)
			})
			if err != nil {
				return err
			}
			return sayNext(e, "%[1]s: generation %[2]d is active, %[3]d is still accepted.\n"+
				"Next: copy the file to every host. When every host has it (xdptcp_cookie_key_generation is %[2]d), wait\n"+
				"at least 70 s, the life of a cookie, and for clients without timestamps as long as they may take\n"+
				"to finish a handshake: some minutes. Then: xdptcp keys drop %[1]s %[3]d\n", args[0], generation, before)
		},
	}
}

func newKeysDrop(e *env) *cobra.Command {
	return &cobra.Command{
		Use:                   "drop FILE GEN",
		Short:                 "take the key of generation GEN out: its cookies are refused",
		DisableFlagsInUseLine: true,
		Args:                  takes(2, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			generation, err := parseGeneration(args[1])
			if err != nil {
				return err
			}
			err = change(args[0], func(set loader.KeySet) (loader.KeySet, error) {
				return set.Drop(generation)
			})
			if err != nil {
				return err
			}
			return sayNext(e, "%[1]s: generation %[2]d is gone.\n"+
				"Next: copy the file to every host; from then on they refuse its cookies.\n", args[0], generation)
		},
	}
}

func newKeysList(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:                   "list FILE [--json]",
		Short:                 "show generations and fingerprints; changes nothing",
		DisableFlagsInUseLine: true,
		Args:                  takes(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			set, err := loader.ReadKeyFile(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return listKeysJSON(e, set)
			}
			return listKeys(e, set)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func listKeys(e *env, set loader.KeySet) error {
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	for _, k := range set.Keys() {
		fmt.Fprintf(w, "generation %d\t%s\t%s\n", k.Generation, k.Use, k.Fingerprint)
	}
	fmt.Fprintf(w, "timestamp\t\t%s\n", set.TimestampFingerprint())
	return w.Flush()
}

// keysReport is the form of `keys list --json`. Fields are added, never renamed.
type keysReport struct {
	Keys      []keysReportKey `json:"keys"`
	Timestamp struct {
		Fingerprint string `json:"fingerprint"`
	} `json:"timestamp"`
}

type keysReportKey struct {
	Generation  int    `json:"generation"`
	Use         string `json:"use"`         // active, accepted
	Fingerprint string `json:"fingerprint"` // 8 hex digits
}

func listKeysJSON(e *env, set loader.KeySet) error {
	var report keysReport
	for _, k := range set.Keys() {
		report.Keys = append(report.Keys, keysReportKey{Generation: k.Generation, Use: k.Use, Fingerprint: k.Fingerprint})
	}
	report.Timestamp.Fingerprint = set.TimestampFingerprint()
	out := json.NewEncoder(e.stdout)
	out.SetIndent("", "  ")
	return out.Encode(report)
}

// change reads a key file, changes its keys and writes it.
func change(path string, f func(loader.KeySet) (loader.KeySet, error)) error {
	set, err := loader.ReadKeyFile(path)
	if err != nil {
		return err
	}
	if set, err = f(set); err != nil {
		return fmt.Errorf("key file %s: %w", path, err)
	}
	return loader.ReplaceKeyFile(path, set)
}

func sayNext(e *env, format string, args ...any) error {
	_, err := fmt.Fprintf(e.stdout, format, args...)
	return err
}

func parseGeneration(text string) (int, error) {
	generation, err := strconv.Atoi(text)
	if err != nil {
		return 0, errUsage{fmt.Errorf("generation %q: want a number, as xdptcp keys list shows it", text)}
	}
	return generation, nil
}
