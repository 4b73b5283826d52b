// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"log/slog"
	"time"
)

// keyFilePoll is how often the key file is looked at. Looking at the path serves what inotify does not:
// a directory that is swapped behind a symbolic link, as Kubernetes mounts its secrets.
const keyFilePoll = time.Second

// A keyWatch keeps a keyring at what a key file says.
type keyWatch struct {
	path string
	ring *keyring
	log  *slog.Logger
	seen identity // of the file that was last read, good or bad
}

// openKeyFile reads the key file for the first time. The watch begins with run, when the keyring is there.
func openKeyFile(path string, log *slog.Logger) (*keyWatch, KeySet, error) {
	w := &keyWatch{path: path, log: log, seen: identify(path)}
	s, err := ReadKeyFile(path)
	if err != nil {
		return nil, KeySet{}, err
	}
	log.Info("key file read", "file", path, "keys", s.String())
	return w, s, nil
}

// run follows the file until ctx ends.
func (w *keyWatch) run(ctx context.Context) {
	ticker := time.NewTicker(keyFilePoll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			w.look()
		}
	}
}

// look reads the file if it is not the one that was last read. A bad one changes nothing.
func (w *keyWatch) look() {
	now := identify(w.path) // before it is read: what is changed meanwhile is read again
	if now == w.seen {
		return
	}
	w.seen = now
	s, err := ReadKeyFile(w.path)
	if err == nil {
		err = w.take(s)
	}
	if err != nil {
		w.ring.failures.Add(1)
		w.log.Error("key file refused; the old keys stay", "err", err)
	}
}

func (w *keyWatch) take(s KeySet) error {
	if s.keys.Timestamp != w.ring.current.Load().Timestamp {
		w.log.Warn("the timestamp key has changed: handshakes under way fail, and clients that reuse a port out of TIME-WAIT "+
			"drop SYN/ACKs whose timestamps look old, for up to a minute", "file", w.path)
	}
	if err := w.ring.replace(s); err != nil {
		w.seen = identity{} // to try again
		return err
	}
	w.ring.loads.Add(1)
	w.log.Info("key file read", "file", w.path, "keys", s.String())
	return nil
}
