// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// Clients without timestamps have nothing but the key's generation to date their cookie.
func TestHandshakesAndConnectionsOutliveTheRotationOfKeys(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l, "--key-rotation", "1s", "--listen", ":7=echo")
	f := families(l)[0]
	old := dial(t, l, f.addr(7))
	// More than the four generations, so that each of their slots is used again.
	for end := time.Now().Add(5500 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for i, timestamps := range []string{"1", "0"} {
			if err := l.Client.SetSysctl("net.ipv4.tcp_timestamps", timestamps); err != nil {
				t.Fatal(err)
			}
			c, err := dialTo(l, f.addr(7))
			if err != nil {
				t.Fatal(err)
			}
			err = echo(c, payload(uint64(i), 1000))
			c.Close()
			if err != nil {
				t.Fatalf("timestamps=%s: %v", timestamps, err)
			}
		}
	}
	if err := echo(old, payload(9, 1000)); err != nil {
		t.Errorf("a connection older than all keys: %v", err)
	}
	d.scrape().expectNoHonestDrops(t)
}
