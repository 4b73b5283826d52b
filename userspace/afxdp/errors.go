// SPDX-License-Identifier: Apache-2.0

package afxdp

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// The steps of Open that have advice of their own.
const (
	opSocket   = "socket(AF_XDP)"
	opMapUmem  = "mmap of the UMEM"
	opRegister = "register the UMEM"
	opRings    = "set up the rings"
	opBind     = "bind"
)

// openError says what was tried, on what, and what to do.
func openError(cfg Config, op string, err error) error {
	dev := fmt.Sprintf("ifindex %d", cfg.IfIndex)
	if i, e := net.InterfaceByIndex(cfg.IfIndex); e == nil {
		dev = i.Name
	}
	msg := fmt.Sprintf("afxdp: open %s queue %d (%v): %s", dev, cfg.Queue, cfg.ZeroCopy, op)
	if hint := advice(cfg, op, err); hint != "" {
		return fmt.Errorf("%s: %w: %s", msg, err, hint)
	}
	return fmt.Errorf("%s: %w", msg, err)
}

func advice(cfg Config, op string, err error) string {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return ""
	}
	switch op {
	case opSocket:
		switch errno {
		case unix.EPERM:
			return "AF_XDP needs CAP_NET_RAW; run as root or grant it"
		case unix.EAFNOSUPPORT:
			return "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)"
		}
	case opMapUmem, opRegister, opRings:
		switch errno {
		case unix.ENOBUFS, unix.ENOMEM, unix.EPERM:
			return memoryAdvice(cfg)
		case unix.EINVAL:
			return fmt.Sprintf("the kernel refuses chunks of %d bytes (between 2048 and the page size)", cfg.FrameSize)
		}
	case opBind:
		switch errno {
		case unix.EBUSY:
			return fmt.Sprintf("another AF_XDP socket holds queue %d of this device (or still has a ring mapped): "+
				"find it with 'ss --xdp -ap', stop it, or choose another queue", cfg.Queue)
		case unix.EINVAL:
			return fmt.Sprintf("the device may have no queue %d: 'ethtool -l' shows how many it has", cfg.Queue)
		case unix.ENODEV:
			return "there is no such device in this thread's network namespace (lock the goroutine to its thread before entering one)"
		case unix.EOPNOTSUPP:
			if cfg.ZeroCopy == Zero {
				return "the driver has no zero-copy on this queue; use Auto or Copy"
			}
			return "the device does not support AF_XDP"
		case unix.ENETDOWN:
			return "the device is down: set it up first"
		case unix.ENOMEM, unix.ENOBUFS:
			return memoryAdvice(cfg)
		}
	}
	return ""
}

// memoryAdvice: the kernel charges the UMEM to the user's locked memory unless CAP_IPC_LOCK (net/xdp/xdp_umem.c,
// xdp_umem_account_pages; so in 6.1 and still in 6.18), and says ENOBUFS when that is too much.
func memoryAdvice(cfg Config) string {
	need := cfg.FrameSize * (cfg.RxFrames + cfg.TxFrames)
	hint := fmt.Sprintf("the UMEM needs %d KiB of locked memory", need>>10)
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &lim) == nil && lim.Cur != unix.RLIM_INFINITY {
		hint += fmt.Sprintf(" and RLIMIT_MEMLOCK is %d KiB for all sockets of this user", lim.Cur>>10)
	}
	return hint + ": grant CAP_IPC_LOCK, raise the limit (ulimit -l, LimitMEMLOCK=), or ask for fewer frames"
}

func flushError(e unix.Errno) error {
	switch e {
	case unix.ENETDOWN:
		return fmt.Errorf("afxdp: send: %w: the device is down; frames stay queued until it is up", e)
	case unix.ENXIO:
		return fmt.Errorf("afxdp: send: %w: the device is gone; close the socket", e)
	}
	return fmt.Errorf("afxdp: send: %w", e)
}

func waitError(err error) error {
	if errors.Is(err, unix.ENETDOWN) {
		return fmt.Errorf("afxdp: wait: %w: the device is gone; close the socket", err)
	}
	return fmt.Errorf("afxdp: wait: %w", err)
}

func statsError(err error) error { return fmt.Errorf("afxdp: statistics: %w", err) }
