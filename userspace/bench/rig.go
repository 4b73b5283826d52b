// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// patience is for whatever takes no time if all is well.
const patience = 30 * time.Second

// The clients of conns have 256 addresses, so that no port is needed twice within a minute.
var clientNet = netip.MustParsePrefix("203.0.113.0/24") // RFC 5737

// A rig is a lab with a stack's server in it.
type rig struct {
	stack  string
	lab    *lab.Lab
	server *lab.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr lab.Output
}

func newRig(ctx context.Context, stack string, o *options) (_ *rig, err error) {
	r := &rig{stack: stack}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if r.lab, err = lab.New(lab.Options{}); err != nil {
		return nil, err
	}
	for _, h := range []*lab.Host{r.lab.Server, r.lab.Client} {
		for name, value := range map[string]string{
			"net.core.somaxconn":           "4096",
			"net.ipv4.ip_local_port_range": "10000 65535",
		} {
			if err := h.SetSysctl(name, value); err != nil {
				return nil, err
			}
		}
	}
	if err := r.lab.Client.Do(func() error { return addClientNet(r.lab.Client) }); err != nil {
		return nil, err
	}
	if strings.HasPrefix(stack, stackGvisor) {
		// Its address must not be the kernel's as well.
		if err := r.lab.Server.Do(func() error { return dropAddress(r.lab.Server) }); err != nil {
			return nil, err
		}
	}
	// Before the server looks at them …
	if err := errors.Join(r.lab.Client.Offload(false), r.lab.Server.Offload(false)); err != nil {
		return nil, err
	}
	args := []string{verbServe, stack, r.lab.Server.Iface, r.lab.Client.MAC.String()}
	if o.profile != "" {
		path, err := filepath.Abs(filepath.Join(o.profile, stack+".pprof"))
		if err != nil {
			return nil, err
		}
		args = append(args, path)
	}
	r.server = r.lab.Server.CommandContext(ctx, "/proc/self/exe", args...)
	r.server.Stderr = &r.stderr
	if r.stdin, err = r.server.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := r.server.StdoutPipe()
	if err != nil {
		return nil, err
	}
	r.stdout = bufio.NewReader(stdout)
	if err := r.server.Start(); err != nil {
		return nil, err
	}
	if line, err := r.answer(); err != nil || line != "ready" {
		return nil, fmt.Errorf("the server did not get ready; it said %q (%w), and on stderr: %s", line, err, r.stderr.String())
	}
	// … and again when its XDP program is there: the driver decides on some of them anew.
	return r, errors.Join(r.lab.Client.Offload(false), r.lab.Server.Offload(false))
}

// addClientNet gives the host the addresses of clientNet. It runs inside.
func addClientNet(h *lab.Host) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("%s: look lo up: %w", h.Name, err)
	}
	n, err := netlink.ParseIPNet(clientNet.String())
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Dst: n, LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, Table: unix.RT_TABLE_LOCAL})
}

// dropAddress takes the host's IPv4 address away. It runs inside.
func dropAddress(h *lab.Host) error {
	dev, err := netlink.LinkByName(h.Iface)
	if err != nil {
		return fmt.Errorf("%s: look %s up: %w", h.Name, h.Iface, err)
	}
	addrs, err := netlink.AddrList(dev, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for i := range addrs {
		if err := netlink.AddrDel(dev, &addrs[i]); err != nil {
			return fmt.Errorf("%s: take %v away: %w", h.Name, addrs[i], err)
		}
	}
	return nil
}

func (r *rig) address(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(r.lab.Server.Addr4, port)
}

// answer reads a line of the server's.
func (r *rig) answer() (string, error) {
	type result struct {
		line string
		err  error
	}
	got := make(chan result, 1)
	go func() {
		line, err := r.stdout.ReadString('\n')
		got <- result{strings.TrimSpace(line), err}
	}()
	select {
	case a := <-got:
		return a.line, a.err
	case <-time.After(patience):
		return "", errors.New("nothing in time")
	}
}

// usage asks the server what it has used.
func (r *rig) usage() (usage, error) { return r.ask(askUsage) }

func (r *rig) ask(what string) (u usage, err error) {
	if _, err := io.WriteString(r.stdin, what+"\n"); err != nil {
		return u, err
	}
	line, err := r.answer()
	if err != nil {
		return u, err
	}
	return u, decode([]byte(line), &u)
}

// client runs a client in the lab and reads its result.
func (r *rig) client(ctx context.Context, result any, args ...string) error {
	return r.clientUntil(ctx, result, nil, args...)
}

// clientUntil is client, for one that waits until its standard input ends: f runs meanwhile.
func (r *rig) clientUntil(ctx context.Context, result any, f func() error, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	cmd := r.lab.Client.CommandContext(ctx, "/proc/self/exe", append([]string{verbClient, r.lab.Server.Addr4.String()}, args...)...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err == nil {
		err = decode(line, result)
	} else {
		err = fmt.Errorf("client %s: no result: %w", strings.Join(args, " "), err)
	}
	if err == nil && f != nil {
		err = f()
	}
	return errors.Join(err, stdin.Close(), cmd.Wait())
}

// close takes all down.
func (r *rig) close() error {
	var err error
	if r.server != nil && r.server.Process != nil {
		_ = r.stdin.Close() // which ends it
		ended := make(chan error, 1)
		go func() { ended <- r.server.Wait() }()
		select {
		case err = <-ended:
			if err != nil {
				err = fmt.Errorf("the server of %s: %w: %s", r.stack, err, r.stderr.String())
			}
		case <-time.After(patience):
			err = fmt.Errorf("the server of %s does not end", r.stack) // the lab kills it
		}
	}
	if r.lab != nil {
		err = errors.Join(err, r.lab.Close())
	}
	return err
}
