// SPDX-License-Identifier: Apache-2.0

package afxdp

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestConfigRefusesWhatTheKernelWouldNotTake(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg  Config
		want string // in the error; empty: accepted
	}{
		"defaults":                   {Config{IfIndex: 1}, ""},
		"no interface":               {Config{}, "IfIndex 0"},
		"a negative queue":           {Config{IfIndex: 1, Queue: -1}, "Queue -1"},
		"a small chunk":              {Config{IfIndex: 1, FrameSize: 1024}, "FrameSize 1024"},
		"a full page":                {Config{IfIndex: 1, FrameSize: 4096}, ""},
		"a crooked ring":             {Config{IfIndex: 1, RxFrames: 1000}, "RxFrames 1000"},
		"a negative ring":            {Config{IfIndex: 1, TxFrames: -2}, "TxFrames -2"},
		"a ring of many gigabytes":   {Config{IfIndex: 1, TxFrames: 1 << 21}, "TxFrames 2097152"},
		"a mode that does not exist": {Config{IfIndex: 1, ZeroCopy: 9}, "Mode(9)"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tc.cfg.withDefaults()
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestOpenErrorsSayWhatToDo(t *testing.T) {
	cfg, _ := Config{IfIndex: 1 << 30, Queue: 3, ZeroCopy: Zero}.withDefaults()
	for _, tc := range []struct {
		op    string
		errno unix.Errno
		want  string
	}{
		{opSocket, unix.EPERM, "CAP_NET_RAW"},
		{opSocket, unix.EAFNOSUPPORT, "CONFIG_XDP_SOCKETS"},
		{opRegister, unix.ENOBUFS, "12288 KiB of locked memory"},
		{opRegister, unix.ENOMEM, "CAP_IPC_LOCK"},
		{opRings, unix.ENOMEM, "fewer frames"},
		{opBind, unix.EBUSY, "another AF_XDP socket holds queue 3"},
		{opBind, unix.EINVAL, "ethtool -l"},
		{opBind, unix.ENODEV, "no such device"},
		{opBind, unix.EOPNOTSUPP, "no zero-copy"},
		{opBind, unix.ENETDOWN, "is down"},
	} {
		err := openError(cfg, tc.op, tc.errno)
		if !errors.Is(err, tc.errno) {
			t.Errorf("%s, %v: errno not wrapped: %v", tc.op, tc.errno, err)
		}
		for _, want := range []string{tc.want, "ifindex 1073741824 queue 3 (zero-copy)", tc.op} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s, %v: %q does not say %q", tc.op, tc.errno, err, want)
			}
		}
	}
}
