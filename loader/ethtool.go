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

// ifreqData is struct ifreq with its ifr_data, padded to the kernel's size.
type ifreqData struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [24 - unsafe.Sizeof(uintptr(0))]byte
}

// getChannels asks for the numbers of queues. Sound: the kernel writes no more than the struct that
// data points to, and both live until the system call returns.
func getChannels(fd int, name string) (ethtoolChannels, error) {
	channels := ethtoolChannels{cmd: unix.ETHTOOL_GCHANNELS}
	req := ifreqData{data: unsafe.Pointer(&channels)}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL,
		uintptr(unsafe.Pointer(&req))); errno != 0 {
		return ethtoolChannels{}, errno
	}
	return channels, nil
}
