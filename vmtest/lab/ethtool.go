// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offloads are the jobs that a host's interface claims to do for the kernel. On
// veth nobody does them: a segment of 64 KB crosses as it is, and a checksum is
// left as the pseudo-header's sum and vouched for by the other end.
type Offloads struct {
	TxChecksum bool // the sender leaves the checksum to the interface
	TSO        bool // the sender leaves cutting TCP into segments to it
	GSO        bool // the kernel cuts as late as it can
	GRO        bool // the receiver joins segments
}

// Offloads reads the interface's offloads.
func (h *Host) Offloads() (Offloads, error) {
	var o Offloads
	err := h.inHost(func() error {
		for _, f := range features {
			on, err := h.feature(f.name, f.get, 0)
			if err != nil {
				return err
			}
			*f.of(&o) = on != 0
		}
		return nil
	})
	return o, err
}

// Offload turns the interface's offloads off, all four of them, or on again,
// which means as the kernel had them when New returned. With tx offloads off at
// both ends every frame that a host sends is a real one: at most the MTU long,
// its checksums complete.
func (h *Host) Offload(on bool) error {
	if on {
		return h.SetOffloads(h.made)
	}
	return h.SetOffloads(Offloads{})
}

// SetOffloads sets each of the interface's offloads, and fails if the driver
// doesn't follow.
func (h *Host) SetOffloads(want Offloads) error {
	return h.inHost(func() error {
		for _, f := range features {
			var v uint32
			if *f.of(&want) {
				v = 1
			}
			// Even the value that it has already is refused if the driver has fixed
			// it, as it does TSO when there is an XDP program at the other end.
			if now, err := h.feature(f.name, f.get, 0); err != nil {
				return err
			} else if (now != 0) == *f.of(&want) {
				continue
			}
			if _, err := h.feature(f.name, f.set, v); err != nil {
				return err
			}
		}
		// Features depend on one another (TSO goes with the checksum): look at what
		// became of them.
		for _, f := range features {
			v, err := h.feature(f.name, f.get, 0)
			if err != nil {
				return err
			}
			if on := v != 0; on != *f.of(&want) {
				return fmt.Errorf("set %s of %s to %t: the driver leaves it at %t; it may depend on another offload, or on an XDP program", f.name, h.Iface, *f.of(&want), on)
			}
		}
		return nil
	})
}

// features in the order in which they can be set: checksums carry TSO, and a
// change of any makes the kernel decide anew on GRO.
var features = []struct {
	name     string
	get, set uint32 // linux/ethtool.h
	of       func(*Offloads) *bool
}{
	{"tx checksum offload", unix.ETHTOOL_GTXCSUM, unix.ETHTOOL_STXCSUM, func(o *Offloads) *bool { return &o.TxChecksum }},
	{"TSO", unix.ETHTOOL_GTSO, unix.ETHTOOL_STSO, func(o *Offloads) *bool { return &o.TSO }},
	{"GSO", unix.ETHTOOL_GGSO, unix.ETHTOOL_SGSO, func(o *Offloads) *bool { return &o.GSO }},
	{"GRO", unix.ETHTOOL_GGRO, unix.ETHTOOL_SGRO, func(o *Offloads) *bool { return &o.GRO }},
}

// feature makes one SIOCETHTOOL call and returns the value that the kernel left.
// It runs inside.
func (h *Host) feature(name string, cmd, value uint32) (uint32, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("%s of %s: socket: %w", name, h.Iface, err)
	}
	defer unix.Close(fd)

	// struct ethtool_value and struct ifreq (40 bytes on 64-bit machines, of which
	// the request uses the name and the pointer). The kernel follows the pointer
	// during the call only; both are kept alive, and unmoved by Pinner, till then.
	arg := &struct{ cmd, data uint32 }{cmd, value}
	req := &struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(arg)}
	copy(req.name[:unix.IFNAMSIZ-1], h.Iface)
	var pin runtime.Pinner
	pin.Pin(arg)
	pin.Pin(req)
	defer pin.Unpin()

	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(req)))
	if errno == unix.EOPNOTSUPP {
		return 0, fmt.Errorf("%s of %s: ioctl(SIOCETHTOOL, %#x, %d): %w; the driver fixes it (on veth TSO and GSO, while there is an XDP program at the other end)", name, h.Iface, cmd, value, errno)
	}
	if errno != 0 {
		return 0, fmt.Errorf("%s of %s: ioctl(SIOCETHTOOL, %#x, %d): %w%s", name, h.Iface, cmd, value, errno, advice(errno))
	}
	return arg.data, nil
}
