// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The generic netlink family that tells what a driver's XDP can do: include/uapi/linux/netdev.h.
const (
	netdevFamily      = "netdev"
	netdevVersion     = 1
	netdevCmdDevGet   = 1
	netdevIfindex     = 1 // attributes of a device
	netdevXDPFeatures = 3
	netdevZCMaxSegs   = 4
)

// xdpAct is a set of what a driver's XDP can do: enum netdev_xdp_act.
type xdpAct uint64

const (
	actBasic    xdpAct = 1 << iota // drop, pass, transmit
	actRedirect                    // which is how frames get to AF_XDP
	actXmit
	actZeroCopy
	actOffload
	actRxFragments
	actXmitFragments
)

var actNames = []string{"basic", "redirect", "ndo-xmit", "xsk-zerocopy", "hw-offload", "rx-sg", "ndo-xmit-sg"}

func (a xdpAct) String() string {
	var list []string
	for i, name := range actNames {
		if a>>i&1 != 0 {
			list = append(list, name)
		}
	}
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// xdpFeatures are what the kernel says of a driver.
type xdpFeatures struct {
	err       error // answer: the netdev family, which came with Linux 6.3
	act       xdpAct
	zcMaxSegs uint32 // fragments of a frame in zero-copy mode; 0: not told
}

func readXDPFeatures(ifindex int) xdpFeatures {
	family, err := netlink.GenlFamilyGet(netdevFamily)
	if errors.Is(err, os.ErrNotExist) {
		return xdpFeatures{err: ebpf.ErrNotSupported}
	}
	if err != nil {
		return xdpFeatures{err: err}
	}
	req := nl.NewNetlinkRequest(int(family.ID), 0)
	// Not nl.Genlmsg: it leaves the header's reserved field unset, and this family refuses what isn't zero there.
	header := []byte{netdevCmdDevGet, netdevVersion, 0, 0} // struct genlmsghdr
	req.AddRawData(append(header, nl.NewRtAttr(netdevIfindex, nl.Uint32Attr(uint32(ifindex))).Serialize()...))
	answers, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return xdpFeatures{err: err}
	}
	if len(answers) != 1 || len(answers[0]) < nl.SizeofGenlmsg {
		return xdpFeatures{err: fmt.Errorf("%d answers to NETDEV_CMD_DEV_GET", len(answers))}
	}
	attrs, err := nl.ParseRouteAttr(answers[0][nl.SizeofGenlmsg:])
	if err != nil {
		return xdpFeatures{err: err}
	}
	var f xdpFeatures
	for _, a := range attrs {
		switch {
		case a.Attr.Type == netdevXDPFeatures && len(a.Value) == 8:
			f.act = xdpAct(binary.NativeEndian.Uint64(a.Value))
		case a.Attr.Type == netdevZCMaxSegs && len(a.Value) == 4:
			f.zcMaxSegs = binary.NativeEndian.Uint32(a.Value)
		}
	}
	return f
}
