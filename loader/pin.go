// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// DefaultPinDir is where `xdptcp attach` pins.
const DefaultPinDir = bpffsPath + "/xdptcp"

// pinLayout is the version of what lies below a pin directory: LAYOUT/NETNS-IFINDEX/link, and handoff beside it. Names on a BPF filesystem
// must not have dots in them.
const pinLayout = "v1"

// The files of a pin: the XDP program's link, and with kernel services the tcx program's.
const (
	linkPin    = "link"
	handoffPin = "handoff"
)

// A pin is the place of links on a BPF filesystem, which keep programs and maps alive without a process. The
// zero pin is none.
type pin struct{ dir string }

// pinAt is the pin of an interface below a pin directory; "" gives the zero pin.
func pinAt(dir string, at place) pin {
	if dir == "" {
		return pin{}
	}
	return pin{filepath.Join(dir, pinLayout, at.String())}
}

func (p pin) path() string { return filepath.Join(p.dir, linkPin) }

// exists says whether the link is pinned, as far as this process's mount namespace shows.
func (p pin) exists() bool {
	if p.dir == "" {
		return false
	}
	_, err := os.Stat(p.path())
	return err == nil
}

// put pins a link, in place of what was pinned there before.
func (p pin) put(name string, l link.Link) error {
	if p.dir == "" {
		return nil
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	fresh := filepath.Join(p.dir, "new")
	_ = os.Remove(fresh) // of an attach that was killed here
	if err := l.Pin(fresh); err != nil {
		return fmt.Errorf("pin %s: %w", fresh, err)
	}
	if err := os.Rename(fresh, filepath.Join(p.dir, name)); err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	return nil
}

// remove unpins; that there is no pin is no error.
func (p pin) remove() error {
	if p.dir == "" {
		return nil
	}
	for _, name := range []string{linkPin, handoffPin} {
		if err := os.Remove(filepath.Join(p.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("unpin: %w", err)
		}
	}
	_ = os.Remove(p.dir) // unless somebody else keeps something there
	return nil
}

// preparePins makes sure that pins can be made below dir, and removes there the pins of links whose interface is gone:
// they would hold their maps' memory for ever.
func preparePins(dir string) error {
	if dir == "" {
		return nil
	}
	if err := needBPFFS(dir); err != nil {
		return err
	}
	layout := filepath.Join(dir, pinLayout)
	if err := os.MkdirAll(layout, 0o700); err != nil {
		return fmt.Errorf("pin directory: %w", err)
	}
	return removeStalePins(layout)
}

func removeStalePins(layout string) error {
	pins, err := filepath.Glob(filepath.Join(layout, "*", linkPin))
	if err != nil {
		return fmt.Errorf("pin directory %s: %w", layout, err)
	}
	for _, path := range pins {
		if stale(path) {
			if err := (pin{filepath.Dir(path)}).remove(); err != nil {
				return err
			}
		}
	}
	return nil
}

// stale says whether a path is an XDP link that is on no interface any more.
func stale(path string) bool {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return false // not a link, or not there any more: not ours to remove
	}
	defer l.Close()
	info, err := l.Info()
	return err == nil && info.Type == link.XDPType && info.XDP().Ifindex == 0
}

// needBPFFS: dir, which need not exist, must be on a BPF filesystem. At the usual place one is mounted if there is
// none, which also is what systemd does at boot.
func needBPFFS(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("pin directory %q: give an absolute path, such as %s, or '' for no pin", dir, DefaultPinDir)
	}
	existing := filepath.Clean(dir)
	for {
		_, err := os.Stat(existing)
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("pin directory: %w", err)
		}
		existing = filepath.Dir(existing)
	}
	ok, err := isBPFFS(existing)
	if err != nil {
		return fmt.Errorf("pin directory %s: %w", existing, err)
	}
	if ok {
		return nil
	}
	if existing == bpffsPath {
		if err = mountBPFFS(); err == nil {
			return nil
		}
		err = fmt.Errorf(" (tried it: %w)", err)
	} else {
		err = errors.New("")
	}
	return fmt.Errorf("pin directory %s is not on a BPF filesystem: mount one with: mount -t bpf bpf %s%w; or attach without a pin: --pin ''",
		dir, bpffsPath, err)
}

func isBPFFS(path string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return false, fmt.Errorf("statfs: %w", err)
	}
	return st.Type == unix.BPF_FS_MAGIC, nil
}

func mountBPFFS() error {
	entries, err := os.ReadDir(bpffsPath)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty", bpffsPath)
	}
	return unix.Mount("bpf", bpffsPath, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700")
}
