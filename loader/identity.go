// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"os"
	"syscall"
)

// An identity says which file a path leads to, and in which version. ctime is in it because a chmod
// can mend a file.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
	err          string // there is none, and why
}

func identify(path string) identity {
	info, err := os.Stat(path)
	if err != nil {
		return identity{err: err.Error()}
	}
	st := info.Sys().(*syscall.Stat_t)
	return identity{dev: uint64(st.Dev), ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}
}
