// SPDX-License-Identifier: Apache-2.0

package flood

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestARivalIsReadByItsName(t *testing.T) {
	for text, want := range map[string]Rival{
		"kernel":                       {Server: Kernel},
		"synproxy":                     {Server: Synproxy},
		"xdp_synproxy=/a/b.o":          {XDPSynproxy, "/a/b.o"},
		"xdp_synproxy=cache/a=b/c d.o": {XDPSynproxy, "cache/a=b/c d.o"},
	} {
		if r, err := ParseRival(text); err != nil || r != want {
			t.Errorf("%q: %+v, %v; want %+v", text, r, err, want)
		}
	}
	for text, want := range map[string]string{
		"":              "there are kernel, synproxy and xdp_synproxy=FILE",
		"nginx":         "there are kernel, synproxy and xdp_synproxy=FILE",
		"nginx=x.o":     "there are kernel, synproxy and xdp_synproxy=FILE",
		"swap":          "there are kernel, synproxy and xdp_synproxy=FILE",
		"xdptcp":        "there are kernel, synproxy and xdp_synproxy=FILE",
		"kernel=x.o":    "kernel takes no file",
		"synproxy=":     "synproxy takes no file",
		"xdp_synproxy":  "want xdp_synproxy=FILE",
		"xdp_synproxy=": "want xdp_synproxy=FILE",
	} {
		if r, err := ParseRival(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v; want an error with %q", text, r, err, want)
		}
	}
}

func TestRivalsThatCantBeHadAreRefusedBeforeAnythingIsMeasured(t *testing.T) {
	dir := t.TempDir()
	text, other := filepath.Join(dir, "text.o"), filepath.Join(dir, "other.o")
	for name, content := range map[string][]byte{text: []byte("no ELF file"), other: _FloodBytes} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir) // where no tool of netfilter is
	for _, c := range []struct {
		name   string
		rivals []Rival
		v6     bool
		want   string
	}{
		{"no such file", []Rival{{XDPSynproxy, filepath.Join(dir, "nosuch.o")}}, false, "nosuch.o: no such file or directory; vmtest/rivals.sh makes it"},
		{"no object", []Rival{{XDPSynproxy, text}}, false, "read its object"},
		{"another object", []Rival{{XDPSynproxy, other}}, false, "other.o is another object"},
		{"no nft", []Rival{{Server: Synproxy}}, false, `"nft": executable file not found in $PATH; install nftables`},
		{"no ip6tables", []Rival{{Server: Synproxy}}, true, `"ip6tables-restore": executable file not found in $PATH; install iptables`},
		{"twice", []Rival{{Server: Kernel}, {Server: Kernel}}, false, "the rival kernel is given twice"},
		{"no rival", []Rival{{Server: Swap}}, false, `there is no rival "swap"`},
	} {
		_, err := Run(context.Background(), Options{
			Binary: "/nosuch", Duration: time.Second, Rounds: 1, Rivals: c.rivals, IPv6: c.v6,
			Progress: func(s string) { t.Errorf("%s: %s", c.name, s) },
		})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", c.name, err, c.want)
		}
	}
}
