// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// product is the path of the xdptcp under test.
var product string

// pinDir is where the tests' daemons pin: a BPF filesystem of this process, which goes with it.
var pinDir string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if lab.Available() == nil { // otherwise no test gets as far as to need it
			f, err := build()
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			defer f.Close()
			// A lab's tests wait more than they work.
			flag.Parse()
			if n := flag.Lookup("test.parallel"); n.Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
				if err := n.Value.Set(strconv.Itoa(2 + 2*runtime.GOMAXPROCS(0))); err != nil {
					fmt.Fprintln(os.Stderr, err)
					return 1
				}
			}
			fs, err := bpffs()
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			defer unix.Close(fs)
			pinDir = fmt.Sprintf("/proc/%d/fd/%d/xdptcp", os.Getpid(), fs)
			product = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
		}
		return m.Run()
	}())
}

// bpffs makes a BPF filesystem that is mounted nowhere, and opens it.
func bpffs() (int, error) {
	fs, err := unix.Fsopen("bpf", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen(bpf): %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("make a BPF filesystem: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	return fd, nil
}

// build makes the binary, with the race detector if this test has it. The file is deleted before it
// is used, so that nothing is left of it however this process ends.
func build() (_ *os.File, err error) {
	dir, err := os.MkdirTemp("", "xdptcp-e2e-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "xdptcp")
	args := []string{"build", "-o", path}
	if raceBuild {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "../cmd/xdptcp")...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build ../cmd/xdptcp: %w\n%s", err, out)
	}
	return os.Open(path)
}
