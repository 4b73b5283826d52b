// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
)

// lines are a log that is read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// A watched is a keyring that follows a key file, in virtual time.
type watched struct {
	t      *testing.T
	path   string
	ring   *keyring
	log    lines
	broken atomic.Bool // the map takes nothing
}

func watch(t *testing.T, path string) *watched {
	t.Helper()
	w := &watched{t: t, path: path}
	k, first, err := openKeyFile(path, slog.New(slog.NewTextHandler(&w.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if k.ring, err = newKeyring(func(*bpf.CookieKeys) error {
		if w.broken.Load() {
			return errors.New("the map is broken")
		}
		return nil
	}, first); err != nil {
		t.Fatal(err)
	}
	w.ring = k.ring
	go k.run(t.Context())
	return w
}

// soon is within what it takes to notice a change and to publish it, four writes with pauses.
const soon = keyFilePoll + 4*settleTime

// expect waits, and then compares the keys in use, the counters and the number of lines in the log.
func (w *watched) expect(what string, s KeySet, loads, failures uint64, lines int) {
	w.t.Helper()
	time.Sleep(soon)
	synctest.Wait()
	keys, st := w.ring.current.Load(), w.ring.status()
	if keys.Current != s.keys.Current || keys.Valid != s.keys.Valid || keys.Key[s.Active()] != s.keys.Key[s.Active()] {
		w.t.Errorf("%s: the keys are %v, want %v", what, KeySet{*keys}, s)
	}
	if st.Loads != loads || st.Failures != failures || strings.Count(w.log.String(), "\n") != lines {
		w.t.Errorf("%s: %d loads, %d failures, %d lines of log; want %d, %d, %d:\n%s",
			what, st.Loads, st.Failures, strings.Count(w.log.String(), "\n"), loads, failures, lines, &w.log)
	}
}

func (w *watched) logged(text ...string) {
	w.t.Helper()
	lines := strings.Split(strings.TrimSpace(w.log.String()), "\n")
	for _, want := range text {
		if last := lines[len(lines)-1]; !strings.Contains(last, want) {
			w.t.Errorf("the log's last line has no %q: %s", want, last)
		}
	}
}

func step(t *testing.T, s KeySet, err error) KeySet {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAChangedKeyFileIsTakenWithinASecondOrSo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	first := generated(t)
	if err := CreateKeyFile(path, first); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, path)
		w.expect("at first", first, 0, 0, 1)
		w.logged("level=INFO", "key file read", first.String())
		time.Sleep(10 * time.Second)
		w.expect("unchanged", first, 0, 0, 1)

		added, generation, err := first.Add()
		step(t, added, err)
		if err := ReplaceKeyFile(path, added); err != nil {
			t.Fatal(err)
		}
		w.expect("add", added, 1, 0, 2)
		w.logged("level=INFO", added.String())
		active, err := added.Activate(generation)
		step(t, active, err)
		if err := ReplaceKeyFile(path, active); err != nil {
			t.Fatal(err)
		}
		w.expect("activate", active, 2, 0, 3)
		if st := w.ring.status(); st.Generation != generation || st.Accepted != 2 || st.Age > soon {
			t.Errorf("%+v", st)
		}
		dropped, err := active.Drop(first.Active())
		if err := ReplaceKeyFile(path, step(t, dropped, err)); err != nil {
			t.Fatal(err)
		}
		w.expect("drop", dropped, 3, 0, 4)
		if st := w.ring.status(); st.Accepted != 1 || st.Age < soon {
			t.Errorf("%+v: dropping another key does not make this one younger", st)
		}
	})
}

func TestABadKeyFileIsToldOnceAndChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	first, next := testSet(), generated(t)
	next.keys.Timestamp = first.keys.Timestamp
	if err := CreateKeyFile(path, first); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, path)
		if err := os.WriteFile(path, []byte("xdptcp-keys 1\nkey "+hexA), 0o600); err != nil {
			t.Fatal(err)
		}
		w.expect("damaged", first, 0, 1, 2)
		w.logged("level=ERROR", "the old keys stay", path, "line 2: ")
		time.Sleep(10 * time.Second)
		w.expect("still damaged", first, 0, 1, 2)
		keyFileAt(t, path, next, 0o644)
		w.expect("for all to read", first, 0, 2, 3)
		w.logged("level=ERROR", "chmod 600 "+path)
		if err := os.Chmod(path, 0o600); err != nil { // neither its bytes nor its mtime change
			t.Fatal(err)
		}
		w.expect("mended", next, 1, 2, 4)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		w.expect("removed", next, 1, 3, 5)
		w.logged("level=ERROR", "no such file")
		time.Sleep(10 * time.Second)
		w.expect("still removed", next, 1, 3, 5)
		if err := CreateKeyFile(path, first); err != nil {
			t.Fatal(err)
		}
		w.expect("back", first, 2, 3, 6)
		if strings.Contains(w.log.String(), hexA) {
			t.Errorf("the log shows a key:\n%s", &w.log)
		}
	})
}

func TestAKeyFileBehindALinkToADirectoryThatIsSwappedIsFollowed(t *testing.T) {
	// As Kubernetes mounts a secret: keys -> ..data/keys, ..data -> one directory or the next.
	dir := t.TempDir()
	sets := []KeySet{testSet(), generated(t)}
	for i, name := range []string{"one", "two"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		keyFileAt(t, filepath.Join(dir, name, "keys"), sets[i], 0o400)
	}
	link := func(to, name string) {
		t.Helper()
		if err := errors.Join(os.Symlink(to, filepath.Join(dir, "new")), os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, name))); err != nil {
			t.Fatal(err)
		}
	}
	link("one", "..data")
	link("..data/keys", "keys")
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, filepath.Join(dir, "keys"))
		w.expect("at first", sets[0], 0, 0, 1)
		link("two", "..data")
		w.expect("swapped", sets[1], 1, 0, 3)
		if !strings.Contains(w.log.String(), "level=WARN msg=\"the timestamp key has changed") {
			t.Errorf("no warning that the timestamp key has changed:\n%s", &w.log)
		}
	})
}

func TestKeysThatTheMapDidNotTakeAreTriedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	first := testSet()
	if err := CreateKeyFile(path, first); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, path)
		w.broken.Store(true)
		next, err := first.Activate(2)
		if err := ReplaceKeyFile(path, step(t, next, err)); err != nil {
			t.Fatal(err)
		}
		w.expect("broken", first, 0, 1, 2)
		w.logged("level=ERROR", "the map is broken")
		w.broken.Store(false)
		w.expect("mended", next, 1, 1, 3)
	})
}

func TestAKeyFileThatIsBadFromTheStartIsRefused(t *testing.T) {
	path := keyFileAt(t, filepath.Join(t.TempDir(), "keys"), testSet(), 0o640)
	if _, _, err := openKeyFile(path, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("%v", err)
	}
	_, err := Prepare(Options{Interface: "lo", Services: []Service{{Port: 1}}, KeyFile: path, KeyRotation: time.Second})
	if err == nil || !strings.Contains(err.Error(), "exclude each other") {
		t.Errorf("a key file and a rotation: %v", err)
	}
}
