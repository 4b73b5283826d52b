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

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// product is the path of the xdptcp under test.
var product string

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
			product = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
		}
		return m.Run()
	}())
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
