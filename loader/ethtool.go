// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtoolChannels is struct ethtool_channels of include/uapi/linux/ethtool.h.
type ethtoolChannels struct {
	cmd                                 uint32
	maxRx, maxTx, maxOther, maxCombined uint32
	rx, tx, other, combined             uint32
}

// ethtoolValue is struct ethtool_value of include/uapi/linux/ethtool.h.
type ethtoolValue struct{ cmd, data uint32 }

// Bits of the value of ETHTOOL_GFLAGS: enum ethtool_flags of include/uapi/linux/ethtool.h.
const (
	flagRxVLAN = 1 << 8
	flagLRO    = 1 << 15
)

// ifreqData is struct ifreq with its ifr_data, padded to the kernel's size.
type ifreqData struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [24 - unsafe.Sizeof(uintptr(0))]byte
}

// getChannels asks for the numbers of queues.
func getChannels(fd int, name string) (ethtoolChannels, error) {
	channels := ethtoolChannels{cmd: unix.ETHTOOL_GCHANNELS}
	if err := askEthtool(fd, name, unsafe.Pointer(&channels)); err != nil {
		return ethtoolChannels{}, err
	}
	return channels, nil
}

// getValue asks for one number: cmd is one of the ETHTOOL_G… that are answered with an ethtool_value.
func getValue(fd int, name string, cmd uint32) (uint32, error) {
	value := ethtoolValue{cmd: cmd}
	err := askEthtool(fd, name, unsafe.Pointer(&value))
	return value.data, err
}

// askEthtool has the kernel fill in the struct at data, whose first field is the command. Sound: the
// kernel writes no more than that command's struct, and all live until the system call returns.
func askEthtool(fd int, name string, data unsafe.Pointer) error {
	req := ifreqData{data: data}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL,
		uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
}
