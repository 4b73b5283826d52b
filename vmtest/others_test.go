// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// kernelEcho is an echo service of the server's own kernel, TCP or UDP.
func kernelEcho(t *testing.T, l *lab.Lab, addr string) {
	t.Helper()
	ln, err := l.Server.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go serveEcho(ln)
}

func serveEcho(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return // closed
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c) // the client's test sees what is wrong
		}()
	}
}

func kernelUDPEcho(t *testing.T, l *lab.Lab, addr string) {
	t.Helper()
	var pc net.PacketConn
	if err := l.Server.Do(func() (err error) { pc, err = net.ListenPacket("udp", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return // closed
			}
			_, _ = pc.WriteTo(b[:n], from) // the client's test misses it
		}
	}()
}

func TestPacketsThatAreNotOursPass(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l, "--listen", ":8080=echo")
	for _, f := range families(l) {
		t.Run(f.name, func(t *testing.T) {
			kernelEcho(t, l, f.addr(9090))
			kernelUDPEcho(t, l, f.addr(8080)) // the same number, another protocol
			if err := echo(dial(t, l, f.addr(9090)), payload(1, 300_000)); err != nil {
				t.Errorf("TCP to another port: %v", err)
			}
			if err := echo(dial(t, l, f.addr(8080)), payload(1, 300_000)); err != nil {
				t.Errorf("our own port meanwhile: %v", err)
			}
			u, err := l.Client.Dial(t.Context(), "udp", f.addr(8080))
			if err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			_ = u.SetDeadline(time.Now().Add(patience)) // it is open: this can't fail
			if err := echo(u, payload(1, 1000)); err != nil {
				t.Errorf("UDP: %v", err)
			}
			c, err := l.Client.Dial(t.Context(), "tcp", f.addr(9091))
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("a port where nobody listens: %v, want the kernel's refusal", err)
			}
			if err == nil {
				c.Close()
			}
		})
	}
	s := d.scrape()
	if s.packets("pass", "no_service") < 10 || s.packets("pass", "not_tcp") < 2 {
		t.Errorf("counted %v packets to other ports, %v that are not TCP", s.packets("pass", "no_service"), s.packets("pass", "not_tcp"))
	}
}

func TestPingStillWorks(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	attach(t, l)
	for _, f := range families(l) {
		t.Run(f.name, func(t *testing.T) {
			network, request, reply := "ip4:icmp", byte(8), byte(0)
			if !f.server.Is4() {
				network, request, reply = "ip6:ipv6-icmp", 128, 129
			}
			var c net.Conn
			if err := l.Client.Do(func() (err error) { c, err = net.Dial(network, f.server.String()); return err }); err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			msg := append([]byte{request, 0, 0, 0, 0x12, 0x34, 0, 1}, payload(1, 48)...)
			if f.server.Is4() { // for IPv6 the kernel does it
				binary.BigEndian.PutUint16(msg[2:], ^sum16(msg))
			}
			if _, err := c.Write(msg); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(patience)) // it is open: this can't fail
			for {
				b := make([]byte, 1500)
				n, err := c.Read(b)
				if err != nil {
					t.Fatalf("no answer: %v", err)
				}
				// IPv4 raw sockets give the IP header, too.
				if b = b[:n]; bytes.HasSuffix(b, msg[4:]) && b[n-len(msg)] == reply {
					return
				}
			}
		})
	}
}

func TestAServiceWithAnAddressIsOnThatAddressOnly(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	fams := families(l)
	d := attach(t, l, "--listen", fams[0].addr(8080)+"=http", "--listen", fams[1].addr(8081)+"=http")
	// The other combinations are the kernel's, at the same time.
	kernelEcho(t, l, fams[1].addr(8080))
	kernelEcho(t, l, fams[0].addr(8081))
	for i, port := range []uint16{8080, 8081} {
		if _, err := fetch(httpClient(t, l, patience), "http://"+fams[i].addr(port)+"/"); err != nil {
			t.Error(err)
		}
		if err := echo(dial(t, l, fams[1-i].addr(port)), payload(1, 1000)); err != nil {
			t.Errorf("the kernel's %s: %v", fams[1-i].addr(port), err)
		}
	}
	if s := d.scrape(); s.opened() != 2 || s.packets("pass", "not_local") == 0 {
		t.Errorf("%v connections are ours, want 2; %v packets passed as not local, want some", s.opened(), s.packets("pass", "not_local"))
	}
}

func TestAFrameForAnotherMACIsPassed(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l)
	raws := newSender(t, l.Client)
	for i, f := range families(l) {
		tap := record(t, l)
		syn := raw{to: net.HardwareAddr{2, 0, 0x5e, 0, 0x53, 99}, from: l.Client.MAC,
			src: f.from(40000), dst: f.serverPort(8080), flags: flagSYN, seq: 1, options: synOptions}
		if err := raws.send(syn.frame()); err != nil {
			t.Fatal(err)
		}
		s := d.eventually("the frame counted", func(s samples) bool { return s.packets("pass", "other_host") >= float64(i+1) })
		if s.packets("pass", "other_host") != float64(i+1) || s.packets("tx", "synack") != float64(i) {
			t.Errorf("%s: %v frames for other hosts, %v SYN/ACKs; want %d, %d", f.name, s.packets("pass", "other_host"), s.packets("tx", "synack"), i+1, i)
		}
		for _, s := range tap.rest() {
			if !s.outgoing {
				t.Errorf("it was answered: %v", s)
			}
		}
		// The same frame to the right MAC is answered: it was nothing else that it was passed for.
		syn.to = l.Server.MAC
		if err := raws.send(syn.frame()); err != nil {
			t.Fatal(err)
		}
		d.eventually("a SYN/ACK", func(s samples) bool { return s.packets("tx", "synack") == float64(i+1) })
	}
}
