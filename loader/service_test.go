// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/xdptcp/xdptcp/bpf"
)

func TestParseServiceReadsWhatListenTakes(t *testing.T) {
	for _, c := range []struct {
		text string
		want Service
		err  string // part of the refusal
	}{
		{text: ":8080=http", want: Service{Port: 8080, Action: "http"}},
		{text: "192.0.2.1:80=echo", want: Service{Addr: netip.MustParseAddr("192.0.2.1"), Port: 80, Action: "echo"}},
		{text: "[2001:db8::1]:443=discard", want: Service{Addr: netip.MustParseAddr("2001:db8::1"), Port: 443, Action: "discard"}},
		{text: "[::ffff:192.0.2.1]:80=http", want: Service{Addr: netip.MustParseAddr("192.0.2.1"), Port: 80, Action: "http"}},
		{text: ":65535=http", want: Service{Port: 65535, Action: "http"}},
		{text: "8080=http", err: "no port"},
		{text: ":8080", err: "no action"},
		{text: ":8080=", err: "no action"},
		{text: ":0=http", err: `port "0" is not a number from 1 to 65535`},
		{text: ":65536=http", err: `port "65536"`},
		{text: ":http=http", err: `port "http"`},
		{text: "example.org:80=http", err: `"example.org" is not an IP address`},
		{text: "0.0.0.0:80=http", err: "leave the address out"},
		{text: "[::]:80=http", err: "leave the address out"},
		{text: "224.0.0.1:80=http", err: "no multicast"},
		{text: "[fe80::1%eth0]:80=http", err: "zone"},
	} {
		got, err := ParseService(c.text)
		switch {
		case c.err == "" && (err != nil || got != c.want):
			t.Errorf("%q: %+v, %v; want %+v", c.text, got, err, c.want)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%q: %v, want a refusal with %q", c.text, err, c.err)
		case c.err == "":
			if again, err := ParseService(got.String()); err != nil || again != got {
				t.Errorf("%q is written as %q, which reads as %+v, %v", c.text, got, again, err)
			}
		}
	}
}

func TestServicesMayNotShareAnAddressAndPort(t *testing.T) {
	for text, ok := range map[string]bool{
		":80=http":                            true,
		":80=http :81=http":                   true,
		":80=http :80=echo":                   false,
		":80=http 192.0.2.1:80=echo":          false,
		"192.0.2.1:80=http 192.0.2.1:80=http": false,
		"192.0.2.1:80=http 192.0.2.2:80=echo": true,
		"":                                    false,
		strings.Repeat(":80=http ", 65):       false,
	} {
		var list []Service
		for _, field := range strings.Fields(text) {
			s, err := ParseService(field)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, s)
		}
		if err := CheckServices(list); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// lookup is what the XDP program does: services_on_port & services_on_addr4 or 6 of config.h.
func (t *serviceTables) lookup(a netip.Addr, port uint16) uint64 {
	for i := range uint32(bpf.LocalProbes) {
		switch s4, s6 := t.slot(a, i); {
		case s4 != nil && s4.Services != 0 && s4.Addr == words(a)[0]:
			return s4.Services & t.ports[port]
		case s6 != nil && s6.Services != 0 && s6.Addr == [4]uint32(words(a)):
			return s6.Services & t.ports[port]
		}
	}
	return 0
}

func TestTheTablesGiveEachServiceItsPacketsAndNoOthers(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	services := []Service{
		{Port: 80, Action: "http"},
		{Addr: netip.MustParseAddr("198.51.100.7"), Port: 443, Action: "echo"},
	}
	tables, err := newServiceTables(services, own)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		addr string
		port uint16
		want uint64
	}{
		{"192.0.2.1", 80, 1}, {"2001:db8::1", 80, 1}, {"198.51.100.7", 443, 2},
		{"192.0.2.1", 443, 0}, {"198.51.100.7", 80, 0}, {"192.0.2.2", 80, 0}, {"192.0.2.1", 81, 0},
	} {
		if got := tables.lookup(netip.MustParseAddr(c.addr), c.port); got != c.want {
			t.Errorf("%s port %d: services %b, want %b", c.addr, c.port, got, c.want)
		}
	}
}

func TestTheTablesHoldTwoHundredAddressesOfEachKind(t *testing.T) {
	var own []netip.Addr
	a4, a6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for range 200 {
		own = append(own, a4, a6)
		a4, a6 = a4.Next(), a6.Next()
	}
	tables, err := newServiceTables([]Service{{Port: 80, Action: "http"}}, own)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range own {
		if tables.lookup(a, 80) != 1 {
			t.Errorf("%v is not found", a)
		}
	}
}

func TestTheProgramHasRoomToDescribeAllServices(t *testing.T) {
	var services []Service
	for i := range bpf.MaxServices {
		services = append(services, Service{
			Addr: netip.MustParseAddr("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"), Port: uint16(65535 - i), Action: "discard",
		})
	}
	text := describe(services)
	if end := bytes.IndexByte(text[:], 0); !strings.HasSuffix(string(text[:max(0, end)]), services[len(services)-1].String()) {
		t.Errorf("the description is cut off after %d bytes", end)
	}
	spec, err := bpf.Load()
	if err != nil {
		t.Fatal(err)
	}
	if got := spec.Variables["cfg_services"].Size(); got != servicesSize {
		t.Errorf("the program has %d bytes for it, the loader writes %d", got, servicesSize)
	}
}

func TestAnAddressThatFindsNoSlotIsRefused(t *testing.T) {
	var own []netip.Addr
	a := netip.MustParseAddr("198.18.0.0")
	for range 1100 { // more than there are slots
		own = append(own, a)
		a = a.Next()
	}
	if _, err := newServiceTables([]Service{{Port: 80, Action: "http"}}, own); err == nil {
		t.Error("1100 addresses were taken into a table of 1024 slots")
	}
}
