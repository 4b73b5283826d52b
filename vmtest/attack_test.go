// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// flows counts the entries of the attached program's two flow tables, by way of the kernel.
func flows(t *testing.T, h *lab.Host) (n int) {
	t.Helper()
	if err := h.Do(func() error {
		dev, err := netlink.LinkByName(h.Iface)
		if err != nil {
			return err
		}
		if dev.Attrs().Xdp == nil || !dev.Attrs().Xdp.Attached {
			return errors.New("no XDP program")
		}
		prog, err := ebpf.NewProgramFromID(ebpf.ProgramID(dev.Attrs().Xdp.ProgId))
		if err != nil {
			return err
		}
		defer prog.Close()
		info, err := prog.Info()
		if err != nil {
			return err
		}
		ids, _ := info.MapIDs()
		tables := 0
		for _, id := range ids {
			m, err := ebpf.NewMapFromID(id)
			if err != nil {
				return err
			}
			defer m.Close()
			mi, err := m.Info()
			if err != nil {
				return err
			}
			if mi.Name != "flows4" && mi.Name != "flows6" {
				continue
			}
			tables++
			key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
			it := m.Iterate()
			for it.Next(&key, &value) {
				n++
			}
			if err := it.Err(); err != nil {
				return err
			}
		}
		if tables != 2 {
			return errors.New("the program has no maps flows4 and flows6")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestForgedACKsOpenNothingAndAreCounted(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l)
	raws := newSender(t, l.Client)
	const each = 2000
	random := rand.New(rand.NewPCG(1, 2))
	for _, f := range families(l) {
		v4 := f.server.Is4()
		forged := func(i int) raw {
			return raw{to: l.Server.MAC, from: l.Client.MAC, src: spoofed(v4, i), dst: f.serverPort(8080),
				seq: random.Uint32(), ack: random.Uint32(), flags: flagACK}
		}
		for _, kind := range []struct {
			name string
			make func(i int) raw
		}{
			{"bare ACKs", forged},
			{"ACKs with timestamps", func(i int) raw {
				r := forged(i)
				r.options = timestampOption(random.Uint32(), random.Uint32())
				return r
			}},
			{"ACKs with data", func(i int) raw {
				r := forged(i)
				r.flags |= flagPSH
				r.payload = []byte("GET / HTTP/1.1\r\n\r\n")
				return r
			}},
			{"FINs, RSTs and SYN/ACKs", func(i int) raw {
				r := forged(i)
				r.flags = []byte{flagFIN, flagRST, flagSYN | flagACK}[i%3]
				return r
			}},
		} {
			before := d.scrape()
			tap := record(t, l)
			if err := raws.sendAll(each, kind.make); err != nil {
				t.Fatal(err)
			}
			seen := func(s samples, reasons ...string) (n float64) {
				for _, r := range reasons {
					n += s.packets("drop", r) - before.packets("drop", r)
				}
				return n
			}
			all := []string{"bad_cookie", "bad_timestamp", "expired_key", "no_flow", "bad_flags"}
			s := d.eventually("all of them counted", func(s samples) bool { return seen(s, all...) >= each })
			want := []string{"bad_cookie", "expired_key"} // a quarter names the generation in use
			if kind.name == "FINs, RSTs and SYN/ACKs" {
				want = []string{"no_flow", "bad_flags"} // a FIN alone is of no connection
			}
			if seen(s, all...) != each || seen(s, want...) < each-2 { // by luck a cookie's options may look right
				t.Errorf("%s, %s: of %d %v were dropped, %v of them for %v", f.name, kind.name, each, seen(s, all...), seen(s, want...), want)
			}
			if s.opened() != 0 || s["xdptcp_handshakes_completed_total"] != 0 || flows(t, l.Server) != 0 {
				t.Fatalf("%s, %s: %v connections, %v handshakes, %d flows", f.name, kind.name, s.opened(), s["xdptcp_handshakes_completed_total"], flows(t, l.Server))
			}
			for _, s := range tap.rest() {
				if !s.outgoing {
					t.Fatalf("%s, %s: one was answered: %v", f.name, kind.name, s)
				}
			}
		}
	}
	// The counting above would also be right if nothing were ever let in.
	c := dial(t, l, families(l)[0].addr(8080))
	d.eventually("an honest connection", func(s samples) bool { return s.opened() == 1 && flows(t, l.Server) == 1 })
	c.Close()
}

func TestASYNFloodIsAnsweredAndNobodyWaits(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l)
	raws := newSender(t, l.Client)
	const flood = 20_000
	for _, f := range families(l) {
		t.Run(f.name, func(t *testing.T) {
			before := d.scrape()
			done := make(chan error, 1)
			go func() {
				options := append([]byte(nil), synOptions...)
				done <- raws.sendAll(flood, func(i int) raw {
					binary.BigEndian.PutUint32(options[8:], uint32(i))
					return raw{to: l.Server.MAC, from: l.Client.MAC, src: spoofed(f.server.Is4(), i), dst: f.serverPort(8080),
						seq: uint32(i) * 2654435761, flags: flagSYN, options: options}
				})
			}()
			fetched := 0
			for flooding := true; flooding || fetched < 20; fetched++ {
				select {
				case err := <-done:
					if err != nil {
						t.Fatal(err)
					}
					flooding = false
				default:
				}
				start := time.Now()
				client := httpClient(t, l, patience)
				if _, err := fetch(client, f.url("/bytes?n=20000")); err != nil {
					t.Fatal(err)
				}
				client.CloseIdleConnections()
				if took := time.Since(start); took > 900*time.Millisecond { // a lost SYN costs a second
					t.Errorf("a client waited %v", took)
				}
			}
			s := d.eventually("all over", func(s samples) bool { return s.open() == 0 })
			if n := s.packets("tx", "synack") - before.packets("tx", "synack"); n != flood+float64(fetched) {
				t.Errorf("%v SYNs were answered, want %d of the flood and %d of clients", n, flood, fetched)
			}
			if n := s.opened() - before.opened(); n != float64(fetched) {
				t.Errorf("%v connections for %d clients", n, fetched)
			}
			t.Logf("%d clients were served during %d SYNs", fetched, flood)
		})
	}
}
