// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// A halfway is a handshake of which the SYN/ACK has arrived, and the final ACK is still to be sent.
type halfway struct {
	ack        raw
	generation uint32 // of the key, as its ISN names it
}

// stranger sends a SYN from an address that nobody has, and waits for the SYN/ACK.
func stranger(t *testing.T, l *lab.Lab, f family, i int, timestamps bool) halfway {
	t.Helper()
	syn := raw{to: l.Server.MAC, from: l.Client.MAC, src: spoofed(f.server.Is4(), i), dst: f.serverPort(7),
		seq: 500, flags: flagSYN, options: synOptions[:4]} // MSS alone
	if timestamps {
		syn.options = synOptions
	}
	tap := record(t, l, "ack_lost_segment", "keep_alive", "keep_alive_ack") // of connections from before: this takes long
	if err := newSender(t, l.Client).send(syn.frame()); err != nil {
		t.Fatal(err)
	}
	answers := func(s segment) bool { return !s.outgoing && s.dst == syn.src && s.flags == flagSYN|flagACK }
	s := tap.until("the SYN/ACK", answers).first(t, "the SYN/ACK", answers)
	h := halfway{ack: syn, generation: s.seq & 3}
	h.ack.flags, h.ack.seq, h.ack.ack, h.ack.options = flagACK, 501, s.seq+1, nil
	if timestamps {
		h.ack.options = timestampOption(2, s.tsval)
	}
	return h
}

// strangers are one of each family, with and without timestamps.
func strangers(t *testing.T, l *lab.Lab, i int) (list []halfway) {
	t.Helper()
	for _, f := range families(l) {
		list = append(list, stranger(t, l, f, i, true), stranger(t, l, f, i+1, false))
	}
	return list
}

// finish sends the final ACKs, and checks that all of them end with this verdict.
func (d *daemon) finish(list []halfway, verdict, reason string) {
	d.t.Helper()
	raws, before := newSender(d.t, d.lab.Client), d.scrape().packets(verdict, reason)
	for _, h := range list {
		if err := raws.send(h.ack.frame()); err != nil {
			d.t.Fatal(err)
		}
	}
	d.eventually(fmt.Sprintf("%d final ACKs: %s %s", len(list), verdict, reason), func(s samples) bool {
		return s.packets(verdict, reason) == before+float64(len(list))
	})
}

// generate makes a key file with the product.
func generate(t *testing.T, l *lab.Lab) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "keys")
	if _, stderr, code := run(t, l.Server, "keys", "generate", file); code != 0 {
		t.Fatalf("keys generate: exit code %d: %s", code, stderr)
	}
	return file
}

func TestACookieOfOneHostIsAcceptedByAnotherWithTheSameKeyFile(t *testing.T) {
	t.Parallel()
	here, there, elsewhere := lab.ForTest(t, lab.Options{}), lab.ForTest(t, lab.Options{}), lab.ForTest(t, lab.Options{})
	file := generate(t, here)
	attach(t, here, "--listen", ":7=echo", "--keys", file)
	same := attach(t, there, "--listen", ":7=echo", "--keys", file)
	other := attach(t, elsewhere, "--listen", ":7=echo", "--keys", generate(t, elsewhere))
	begun := strangers(t, here, 0)
	other.finish(begun, "drop", "bad_cookie")
	same.finish(begun, "redirect", "opened")
	same.eventually("they are connections", func(s samples) bool { return s.open() == float64(len(begun)) })
}

// secrets collects all keys that a key file ever has.
type secrets map[string]bool

func (s secrets) collect(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range regexp.MustCompile(`\b[0-9a-f]{32}\b`).FindAllString(string(text), -1) {
		s[key] = true
	}
}

// in returns what a text shows of the keys: half of one as hex or as a number, in either byte order.
func (s secrets) in(text string) (found []string) {
	text = strings.ToLower(text)
	for key := range s {
		b, _ := hex.DecodeString(key) // it matched
		for _, half := range [][]byte{b[:8], b[8:]} {
			little, big := binary.LittleEndian.Uint64(half), binary.BigEndian.Uint64(half)
			for _, form := range []string{fmt.Sprintf("%016x", little), fmt.Sprintf("%016x", big), fmt.Sprint(little), fmt.Sprint(big)} {
				if strings.Contains(text, form) {
					found = append(found, form)
				}
			}
			if array := strings.Trim(fmt.Sprint(half), "[]"); strings.Contains(text, array) {
				found = append(found, array)
			}
		}
	}
	return found
}

func TestAKeyFileIsFollowedAndNoKeyIsEverShown(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	f := families(l)[0]
	file, keys := generate(t, l), secrets{}
	keys.collect(t, file)
	d := attach(t, l, "--listen", ":7=echo", "--listen", ":8080=http", "--keys", file, "--log-level", "debug")
	d.mayComplain = true

	var shown strings.Builder // all that any command, log or page has said
	look := func() {
		t.Helper()
		keys.collect(t, file)
		for _, args := range [][]string{{"status"}, {"status", "--json"}, {"keys", "list", file}, {"keys", "list", file, "--json"}} {
			stdout, stderr, _ := run(t, l.Server, args...)
			shown.WriteString(stdout + stderr)
		}
		page, err := fetch(httpClient(t, l, patience), f.url("/json"))
		if err != nil {
			t.Fatal(err)
		}
		shown.WriteString(d.metricsText() + string(page))
	}
	change := func(args ...string) {
		t.Helper()
		stdout, stderr, code := run(t, l.Server, append([]string{"keys"}, args...)...)
		if code != 0 || stderr != "" {
			t.Fatalf("keys %v: exit code %d: %s", args, code, stderr)
		}
		shown.WriteString(stdout)
	}
	become := func(loads, failures, generation, accepted float64) {
		t.Helper()
		d.eventually(fmt.Sprintf("%v loads, %v failures, generation %v, %v keys", loads, failures, generation, accepted), func(s samples) bool {
			return s["xdptcp_key_file_loads_total"] == loads && s["xdptcp_cookie_key_failures_total"] == failures &&
				s["xdptcp_cookie_key_generation"] == generation && s["xdptcp_cookie_keys_accepted"] == accepted
		})
		look()
	}
	works := func(generation uint32, i int) {
		t.Helper()
		if err := echo(dial(t, l, f.addr(7)), payload(uint64(i), 1000)); err != nil {
			t.Error(err)
		}
		begun := strangers(t, l, i)
		for _, h := range begun {
			if h.generation != generation {
				t.Errorf("a cookie of generation %d, want %d", h.generation, generation)
			}
		}
		d.finish(begun, "redirect", "opened")
	}

	become(0, 0, 0, 1)
	works(0, 0)
	old := dial(t, l, f.addr(7))
	first, late := strangers(t, l, 10), strangers(t, l, 20)
	change("add", file)
	become(1, 0, 0, 2)
	works(0, 30)
	change("activate", file, "1")
	become(2, 0, 1, 2)
	works(1, 40)
	d.finish(first, "redirect", "opened") // begun under the old key
	change("drop", file, "0")
	become(3, 0, 1, 1)
	works(1, 50)
	d.finish(late, "drop", "expired_key")

	// A file that others may read is no secret; neither its bytes nor its place change.
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	become(3, 1, 1, 1)
	if log := d.stderr.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "chmod 600 "+file) {
		t.Errorf("the log does not say how to mend the file:\n%s", log)
	}
	works(1, 60)
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	become(4, 1, 1, 1)

	// Another key in the place of the only one.
	late = strangers(t, l, 70)
	fresh := generate(t, l)
	text, err := os.ReadFile(fresh)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fresh, []byte(strings.Replace(string(text), "key 0 active", "key 1 active", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh, file); err != nil {
		t.Fatal(err)
	}
	become(5, 1, 1, 1)
	works(1, 80)
	d.finish(late, "drop", "bad_cookie")
	if err := errors.Join(old.SetDeadline(time.Now().Add(patience)), echo(old, payload(9, 1000))); err != nil {
		t.Errorf("a connection older than all keys: %v", err)
	}
	if log := d.stderr.String(); strings.Count(log, "key file read") != 6 || strings.Count(log, "level=ERROR") != 1 || strings.Count(log, "timestamp key has changed") != 1 {
		t.Errorf("six good files, one bad one and a new timestamp key should be in the log, each once:\n%s", log)
	}

	d.stop()
	if len(keys) != 5 {
		t.Fatalf("%d keys were in the file, want 3 and then 2 others", len(keys))
	}
	if text, err := os.ReadFile(file); err != nil || len(keys.in(string(text))) != 4 {
		t.Fatalf("the search is blind: in the file itself (%v) it finds %v", err, keys.in(string(text)))
	}
	if found := keys.in(shown.String() + d.stderr.String() + d.ready); len(found) > 0 {
		t.Errorf("keys are shown: %v in\n%s\n%s", found, &shown, d.stderr)
	}
}

func TestAttachRefusesAKeyFileThatIsNoSecret(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	file := generate(t, l)
	refused(t, l.Server.Command(product, "attach", "srv0", "--keys", file+"x"), 1, file+"x", "xdptcp keys generate")
	refused(t, l.Server.Command(product, "attach", "srv0", "--keys", file, "--key-rotation", "1m"), 2, "exclude each other")
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	refused(t, l.Server.Command(product, "attach", "srv0", "--keys", file), 1, "chmod 600 "+file)
	expectNothing(t, l)
}
