// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/xdptcp/xdptcp/loader"
	"github.com/xdptcp/xdptcp/userspace/services"
	"github.com/xdptcp/xdptcp/vmtest/lab"
)

const demoPort = 8080

func newDemo(e *env) *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "demo [--once]",
		Short: "show a handshake in a lab of two network namespaces; needs no network card",
		Long: `demo builds two network namespaces joined by a veth pair, attaches xdptcp to one end, and connects
from the other with the kernel's own TCP. It prints the handshake as it went over the wire,
fetches a page and prints the counters. Nothing outside the lab is touched, and nothing of it
outlives the command.

Without --once the lab stays until Ctrl-C, and demo says how to reach it.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return demo(cmd.Context(), e, once) },
	}
	cmd.Flags().BoolVar(&once, "once", false, "clean up and exit when all is shown")
	return cmd
}

func demo(ctx context.Context, e *env, once bool) error {
	out := e.stdout
	fmt.Fprintln(out, "Building two network namespaces joined by a veth pair …")
	l, err := lab.New(lab.Options{})
	if err != nil {
		return err
	}
	defer l.Close()

	opts := daemonOptions{
		loader: loader.Options{
			Interface: l.Server.Iface,
			Services:  []loader.Service{{Port: demoPort, Action: "http"}},
			Log:       e.log,
		},
		metrics: "127.0.0.1:9400", // of the server's namespace
	}
	var d *daemon
	if err := l.Server.Do(func() (err error) { d, err = startDaemon(opts, e.log); return err }); err != nil {
		return err
	}
	defer d.close()
	fmt.Fprintf(out, "  server  %s  %s  %s  xdptcp, %s XDP\n", l.Server.Iface, l.Server.Addr4, l.Server.Addr6, d.responder.Mode())
	fmt.Fprintf(out, "  client  %s  %s  %s  the kernel's TCP\n\n", l.Client.Iface, l.Client.Addr4, l.Client.Addr6)

	for _, addr := range []netip.Addr{l.Server.Addr4, l.Server.Addr6} {
		if err := demoFetch(ctx, out, l, netip.AddrPortFrom(addr, demoPort)); err != nil {
			return err
		}
	}
	if err := demoCounters(out, d); err != nil {
		return err
	}
	if once {
		return nil
	}
	fmt.Fprintf(out, `
The lab stays until Ctrl-C. From another terminal, as root, on the client's side:

  nsenter --net=%[1]s curl http://%[2]s/
  nsenter --net=%[1]s curl http://%[2]s/json

and on the server's side:

  nsenter --net=%[3]s xdptcp status %[4]s
  nsenter --net=%[3]s curl http://%[5]s/metrics
`, l.Client.NSPath(), netip.AddrPortFrom(l.Server.Addr4, demoPort), l.Server.NSPath(), l.Server.Iface, d.metricsAt)
	return d.wait(ctx)
}

// demoFetch fetches a page from the client's side while a tap there watches, and shows both.
func demoFetch(ctx context.Context, out io.Writer, l *lab.Lab, server netip.AddrPort) error {
	tap, err := l.Client.Capture(lab.CaptureOptions{})
	if err != nil {
		return err
	}
	defer tap.Close()
	client := &http.Client{
		Transport: &http.Transport{DialContext: l.Client.Dial, DisableKeepAlives: true},
		Timeout:   10 * time.Second,
	}
	url := fmt.Sprintf("http://%s/json", server)
	began := time.Now()
	resp, err := client.Get(url)
	if err != nil {
		return fmt.Errorf("the client's fetch: %w", err)
	}
	body, err := io.ReadAll(resp.Body)
	took := time.Since(began)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("the client's fetch: %w", err)
	}
	var report services.Report
	if err := json.Unmarshal(body, &report); err != nil || report.Connection == nil {
		return fmt.Errorf("the client's fetch: %s: no report of the connection (%v): %.200s", resp.Status, err, body)
	}
	select { // the last FIN and its ACK are still on their way
	case <-time.After(50 * time.Millisecond):
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := tap.Close(); err != nil {
		return err
	}
	var packets []lab.Packet
	for p := range tap.Packets() {
		packets = append(packets, p)
	}
	if err := writeLadder(out, packets, report.Connection.AnsweredBy); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "\n  GET %s: %s, %d bytes in %v\n\n", url, resp.Status, len(body), took.Round(time.Microsecond))
	return err
}

func demoCounters(out io.Writer, d *daemon) error {
	reasons, err := d.Reasons()
	if err != nil {
		return err
	}
	st := d.Engine()
	w := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	fmt.Fprintln(w, "What XDP counted:")
	writeCounters(w, reasons)
	fmt.Fprintln(w, "What the engine counted:")
	fmt.Fprintf(w, "connections\topened\t%d\n", st.Opened)
	fmt.Fprintf(w, "segments\tin / out\t%d / %d\n", st.SegmentsIn, st.SegmentsOut)
	fmt.Fprintf(w, "pure ACKs\tout\t%d\n", st.PureAcksOut)
	return w.Flush()
}
