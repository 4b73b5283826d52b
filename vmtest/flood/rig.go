// SPDX-License-Identifier: Apache-2.0

package flood

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf/link"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// port is where the servers listen.
const port = 8080

// A rig is a lab with a server at one end and a generator at the other. Each measurement has one of its
// own: none finds the connections of an earlier one.
type rig struct {
	lab    *lab.Lab
	gen    *generator
	server *lab.Cmd   // nil for Swap
	stderr lab.Output // of the server
}

func (o *Options) newRig(s Server) (_ *rig, err error) {
	r := new(rig)
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	// The generator's own program is on the client's end.
	if r.lab, err = lab.New(lab.Options{PlainClient: true}); err != nil {
		return nil, err
	}
	if r.gen, err = newGenerator(r.lab, o.IPv6, port); err != nil {
		return nil, err
	}
	switch s {
	case Swap:
		err = r.gen.attach(r.lab.Server, r.lab.Server.IfIndex, r.gen.objects.Swap, link.XDPDriverMode)
	case Xdptcp:
		err = r.serve(o.Binary, "attach", r.lab.Server.Iface, "--mode", "native", "--pin", "", "--metrics", "",
			"--listen", fmt.Sprintf(":%d=http", port))
	default:
		err = r.serveRival(o, o.Rivals[slices.IndexFunc(o.Rivals, func(r Rival) bool { return r.Server == s })])
	}
	if err != nil {
		return nil, err
	}
	// Only real frames: the client's kernel cuts segments and sums them, as for a wire.
	return r, errors.Join(r.lab.Client.Offload(false), r.lab.Server.Offload(false))
}

// serveRival brings a rival up: the kernel's listener, and what is in front of it.
func (r *rig) serveRival(o *Options, rival Rival) (err error) {
	syncookies := "1"
	if rival.Server != Kernel {
		syncookies = "2" // always, as in the selftest of xdp_synproxy
		// Before the program, which needs conntrack: the rules load it if it is a module.
		if err := r.synproxy(o.IPv6); err != nil {
			return err
		}
	}
	if rival.Server == XDPSynproxy {
		err = r.attachXDPSynproxy(rival)
	} else {
		err = r.gen.attach(r.lab.Server, r.lab.Server.IfIndex, r.gen.objects.Pass, link.XDPDriverMode)
	}
	if err != nil {
		return err
	}
	for name, value := range map[string]string{"net.ipv4.tcp_syncookies": syncookies, "net.core.somaxconn": "4096"} {
		if err := r.lab.Server.SetSysctl(name, value); err != nil {
			return err
		}
	}
	return r.serve(o.Binary, "bench", "serve", fmt.Sprintf(":%d", port))
}

// serve starts a server process in the server's namespace and waits for its ready line.
func (r *rig) serve(binary string, args ...string) error {
	r.server = r.lab.Server.Command(binary, args...)
	r.server.Stderr = &r.stderr
	stdout, err := r.server.StdoutPipe()
	if err != nil {
		return err
	}
	if err := r.server.Start(); err != nil {
		return err
	}
	const patience = 20 * time.Second
	ready := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(stdout).ReadString('\n') // none, if it ends
		ready <- line
		_, _ = io.Copy(io.Discard, stdout)
	}()
	select {
	case line := <-ready:
		if strings.HasPrefix(line, "ready") {
			return nil
		}
		return fmt.Errorf("flood: %s did not get ready; it said %q, and on stderr: %s", strings.Join(args, " "), line, &r.stderr)
	case <-time.After(patience):
		return fmt.Errorf("flood: %s is not ready after %v; it said on stderr: %s", strings.Join(args, " "), patience, &r.stderr)
	}
}

// address is where the clients connect to.
func (r *rig) address(v6 bool) netip.AddrPort {
	if v6 {
		return netip.AddrPortFrom(r.lab.Server.Addr6, port)
	}
	return netip.AddrPortFrom(r.lab.Server.Addr4, port)
}

// close takes all down. The server is killed: it has nothing to save.
func (r *rig) close() error {
	if r.gen != nil {
		r.gen.close()
	}
	if r.lab != nil {
		return r.lab.Close()
	}
	return nil
}
