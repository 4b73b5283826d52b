// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// synFlood sends SYNs from spoofed sources, at most rate per second on each CPU, until the returned function is
// called or a minute is over. On veth, packets arrive on the CPU that sends them, and each has its own shield.
func synFlood(t *testing.T, l *lab.Lab, to netip.AddrPort, rate int) (stop func()) {
	t.Helper()
	const burst = 10 * time.Millisecond
	end := make(chan struct{})
	var senders sync.WaitGroup
	for cpu := range runtime.NumCPU() {
		raws := newSender(t, l.Client)
		senders.Go(func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			var set unix.CPUSet
			set.Set(cpu)
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				t.Error(err)
				return
			}
			options := append([]byte(nil), synOptions...)
			ticker, minute := time.NewTicker(burst), time.After(time.Minute)
			defer ticker.Stop()
			for i := 1 << 15 * (cpu + 1); ; {
				select {
				case <-end:
					return
				case <-minute:
					return
				case <-ticker.C:
				}
				for range rate / int(time.Second/burst) {
					i++
					binary.BigEndian.PutUint32(options[8:], uint32(i))
					r := raw{to: l.Server.MAC, from: l.Client.MAC, src: spoofed(to.Addr().Is4(), i), dst: to,
						seq: uint32(i) * 2654435761, flags: flagSYN, options: options}
					if err := raws.send(r.frame()); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	var once sync.Once
	stop = func() { once.Do(func() { close(end); senders.Wait() }) }
	t.Cleanup(stop)
	return stop
}

// A handClient makes its handshake by hand, one packet at a time, from an address that nobody has.
type handClient struct {
	raw
	synack    segment
	noBareACK bool // the first data comes instead of it
}

// syn sends a SYN and waits for the answer.
func (h *handClient) syn(t *testing.T, l *lab.Lab, raws *sender, src, dst netip.AddrPort) {
	t.Helper()
	tap := record(t, l)
	h.to, h.from, h.src, h.dst = l.Server.MAC, l.Client.MAC, src, dst
	h.seq, h.flags, h.options = 1000, flagSYN, synOptions
	if err := raws.send(h.frame()); err != nil {
		t.Fatal(err)
	}
	tr := tap.until("the SYN/ACK", h.isAnswer(flagSYN|flagACK))
	h.synack = tr.first(t, "the SYN/ACK", h.isAnswer(flagSYN|flagACK))
}

func (h *handClient) isAnswer(flags byte) func(segment) bool {
	return func(s segment) bool { return s.dst == h.src && s.flags&^flagPSH == flags }
}

// finish sends the final ACK, then data, and waits for its echo.
func (h *handClient) finish(t *testing.T, l *lab.Lab, raws *sender) {
	t.Helper()
	tap := record(t, l)
	h.flags, h.seq, h.ack = flagACK, h.seq+1, h.synack.seq+1
	h.options = timestampOption(2, h.synack.tsval)
	if !h.noBareACK {
		if err := raws.send(h.frame()); err != nil {
			t.Fatal(err)
		}
	}
	h.flags, h.payload = flagACK|flagPSH, []byte("by hand")
	if err := raws.send(h.frame()); err != nil {
		t.Fatal(err)
	}
	tap.until("the echo", func(s segment) bool { return s.dst == h.src && string(s.payload) == "by hand" })
}

// xdpAnswered tells an answer of XDP from one of the kernel's, which offers a multiple of the MSS.
func xdpAnswered(s segment) bool { return s.window == 65535 }

func TestTheShieldGoesUpInAFloodAndDownAfterIt(t *testing.T) {
	t.Parallel()
	for i, version := range []string{"IPv4", "IPv6"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{})
			f := families(l)[i]
			plainEcho(t, l, ":8080")
			d := attach(t, l, kernelService("--shield", "auto", "--shield-on", "2000", "--shield-off", "1000")...)
			raws := newSender(t, l.Client)
			client := 0
			connect := func(state string, xdp bool) (c *handClient) {
				t.Helper()
				for range 3 {
					start := time.Now()
					c := dial(t, l, f.addr(8080))
					if err := echo(c, payload(1, 30_000)); err != nil {
						t.Errorf("%s: %v", state, err)
					}
					if took := time.Since(start); took > 900*time.Millisecond { // a lost SYN costs a second
						t.Errorf("%s: a client waited %v", state, took)
					}
				}
				c = new(handClient)
				client++
				c.syn(t, l, raws, spoofed(f.server.Is4(), client), f.serverPort(8080))
				if got := xdpAnswered(c.synack); got != xdp {
					t.Errorf("%s: answered by XDP: %v; window %d", state, got, c.synack.window)
				}
				r, _ := d.statusJSON()
				if s := r.Interfaces[0]; s.Shield != "auto" || s.ShieldUp != xdp {
					t.Errorf("%s: status says shield %q, up %v", state, s.Shield, s.ShieldUp)
				}
				text, _, _ := run(t, l.Server, "status")
				if want := map[bool]string{false: "down: SYNs are few", true: "up: SYNs are many"}[xdp]; !strings.Contains(text, want) {
					t.Errorf("%s: status does not say %q:\n%s", state, want, text)
				}
				if up := d.scrape()["xdptcp_shield_up"]; (up == 1) != xdp {
					t.Errorf("%s: xdptcp_shield_up is %v", state, up)
				}
				return c
			}
			long := dial(t, l, f.addr(8080))
			inPeace := connect("in peace", false)
			if s := d.scrape(); s.packets("tx", "synack") != 0 || s.packets("pass", "peace") < 4 {
				t.Errorf("in peace XDP answered %v SYNs and passed %v", s.packets("tx", "synack"), s.packets("pass", "peace"))
			}

			stop := synFlood(t, l, f.serverPort(8080), 10_000)
			d.eventually("shield up", func(s samples) bool { return s["xdptcp_shield_up"] == 1 })
			time.Sleep(2500 * time.Millisecond) // long enough for bad ACKs to be refused
			inFlood := connect("in the flood", true)
			inPeace.finish(t, l, raws)
			if err := echo(long, payload(2, 100_000)); err != nil {
				t.Errorf("a connection from before the flood: %v", err)
			}
			stop()

			d.eventually("shield down", func(s samples) bool { return s["xdptcp_shield_up"] == 0 })
			connect("after the flood", false).finish(t, l, raws)
			inFlood.finish(t, l, raws)
			if err := echo(long, payload(3, 100_000)); err != nil {
				t.Errorf("a connection from before the flood: %v", err)
			}
			d.handedOver()
		})
	}
}

// With many clients to serve and a flood beside them, nobody waits and nginx never sees the flood.
func TestNginxServesDuringASYNFlood(t *testing.T) {
	t.Parallel()
	for i, version := range []string{"IPv4", "IPv6"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{})
			f := families(l)[i]
			nginx(t, l, "8080", "[::]:8080")
			d := attach(t, l, kernelService()...)
			stop := synFlood(t, l, f.serverPort(8080), 5_000)
			d.eventually("flooded", func(s samples) bool { return s.packets("tx", "synack") > 1000 })
			const clients = 50
			if err := all(clients, 2, func(int) error {
				start := time.Now()
				client := httpClient(t, l, patience)
				defer client.CloseIdleConnections()
				if _, err := fetch(client, f.url("/")); err != nil {
					return err
				}
				if took := time.Since(start); took > 900*time.Millisecond { // a lost SYN costs a second
					return fmt.Errorf("waited %v", took)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
			half, err := l.Server.Command("ss", "-Htan", "state", "syn-recv").Output()
			if err != nil || strings.TrimSpace(string(half)) != "" {
				t.Errorf("the kernel has half-open connections, %v:\n%s", err, half)
			}
			stop()
			if n := d.handedOver(); n != clients {
				t.Errorf("%v connections were handed over, want %d", n, clients)
			}
		})
	}
}

// While SYNs are few they are the kernel's, with all that it can do: it takes the data in a SYN of TCP fast open (RFC 7413).
func TestInPeacetimeTheKernelsFastOpenWorks(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	// Without cookies, on either side, so that the first connection is one already: Documentation/networking/ip-sysctl.
	const client, server, withoutCookie, allListeners = 1, 2, 4, 0x400
	const serverWithoutCookie = 0x200
	for h, value := range map[*lab.Host]int{l.Client: client | withoutCookie, l.Server: server | serverWithoutCookie | allListeners} {
		if err := h.SetSysctl("net.ipv4.tcp_fastopen", fmt.Sprint(value)); err != nil {
			t.Fatal(err)
		}
	}
	plainEcho(t, l, ":8080")
	d := attach(t, l, kernelService("--shield", "auto")...)
	for _, f := range families(l) {
		tap := record(t, l)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		c, err := l.Client.DialWith(ctx, &net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
			_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1) })
			return err
		}}, "tcp", f.addr(8080))
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if err := echo(c, payload(1, 100)); err != nil {
			t.Errorf("%s: %v", f.name, err)
		}
		tr := tap.rest()
		syn := tr.first(t, "a SYN with data", func(s segment) bool { return s.outgoing && s.flags&flagSYN != 0 && len(s.payload) > 0 })
		tr.first(t, "a SYN/ACK that acknowledges the data", func(s segment) bool {
			return !s.outgoing && s.flags&flagSYN != 0 && s.ack == syn.end()
		})
	}
	if n := d.scrape().packets("pass", "peace"); n != 2 {
		t.Errorf("%v SYNs were left to the kernel, want 2", n)
	}
}
