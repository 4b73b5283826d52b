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
		{text: "192.0.2.1:80=echo", want: Service{Prefix: netip.MustParsePrefix("192.0.2.1/32"), Port: 80, Action: "echo"}},
		{text: "[2001:db8::1]:443=discard", want: Service{Prefix: netip.MustParsePrefix("2001:db8::1/128"), Port: 443, Action: "discard"}},
		{text: "[::ffff:192.0.2.1]:80=http", want: Service{Prefix: netip.MustParsePrefix("192.0.2.1/32"), Port: 80, Action: "http"}},
		{text: "198.51.100.0/24:443=echo", want: Service{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Port: 443, Action: "echo"}},
		{text: "[2001:db8::/32]:443=echo", want: Service{Prefix: netip.MustParsePrefix("2001:db8::/32"), Port: 443, Action: "echo"}},
		{text: "198.51.100.7/32:443=echo", want: Service{Prefix: netip.MustParsePrefix("198.51.100.7/32"), Port: 443, Action: "echo"}},
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
		{text: "198.51.100.1/24:443=echo", err: "198.51.100.0/24 would be right"},
		{text: "198.51.100.0/33:443=echo", err: "neither an IP address nor a prefix"},
		{text: "[::ffff:198.51.100.0/120]:443=echo", err: "as IPv4"},
		{text: "0.0.0.0/0:443=echo", err: "every address of the world"},
		{text: "[::/0]:443=echo", err: "every address of the world"},
		{text: "[ff00::/8]:443=echo", err: "no multicast"},
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
		":80=http":                                     true,
		":80=http :81=http":                            true,
		":80=http :80=echo":                            false,
		":80=http 192.0.2.1:80=echo":                   false,
		"192.0.2.1:80=http 192.0.2.1:80=http":          false,
		"192.0.2.1:80=http 192.0.2.2:80=echo":          true,
		"192.0.2.0/24:80=http 192.0.2.2:80=echo":       true,
		"192.0.2.0/24:80=http 192.0.2.0/24:80=echo":    false,
		"192.0.2.0/24:80=http :80=echo":                false,
		"192.0.2.0/24:80=http [2001:db8::/32]:80=echo": true,
		"":                              false,
		strings.Repeat(":80=http ", 65): false,
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

// Ports on a longer prefix are its own; ports that only shorter ones have are served in it, too.
func TestTheLongestPrefixOfAPortCounts(t *testing.T) {
	services := parse(t, ":8080=http 198.51.100.0/24:443=echo 198.51.0.0/16:443=discard 198.51.0.0/16:80=http 198.51.100.7:443=http [2001:db8::/32]:443=echo")
	for _, c := range []struct {
		prefix string
		own    bool
		want   uint64
	}{
		{"198.51.0.0/16", false, 0b001100},
		{"198.51.100.0/24", false, 0b001010},
		{"198.51.100.7/32", false, 0b011000},
		{"198.51.100.8/32", false, 0b001010},
		{"198.51.100.8/32", true, 0b001011},
		{"198.51.101.8/32", false, 0b001100},
		{"198.52.0.1/32", false, 0},
		{"198.52.0.1/32", true, 0b000001},
		{"2001:db8:1::/48", false, 0b100000},
		{"2001:db9::1/128", true, 0b000001},
		{"198.0.0.0/8", false, 0},
	} {
		if got := servicesOn(services, netip.MustParsePrefix(c.prefix), c.own); got != c.want {
			t.Errorf("%s (own: %t): services %06b, want %06b", c.prefix, c.own, got, c.want)
		}
	}
}

func parse(t *testing.T, text string) (list []Service) {
	t.Helper()
	for _, field := range strings.Fields(text) {
		s, err := ParseService(field)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	return list
}

func TestTheProgramHasRoomToDescribeAllServices(t *testing.T) {
	var services []Service
	for i := range bpf.MaxServices {
		services = append(services, Service{
			Prefix: netip.MustParsePrefix("2001:db8:ffff:ffff:ffff:ffff:ffff:fffe/127"), Port: uint16(65535 - i), Action: "discard",
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
