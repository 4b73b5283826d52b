// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace/afxdp"
)

// netdev is what must be known of an interface before it is touched.
type netdev struct {
	name   string
	index  int
	mac    net.HardwareAddr
	mtu    int
	queues int // RX queues in use
	driver string
}

// findNetdev reads an interface of the calling thread's network namespace.
func findNetdev(name string) (*netdev, error) {
	link, err := findLink(name)
	if err != nil {
		return nil, err
	}
	attrs := link.Attrs()
	if attrs.EncapType != "ether" || len(attrs.HardwareAddr) != 6 {
		return nil, fmt.Errorf("interface %q is of type %q: xdptcp needs Ethernet", name, attrs.EncapType)
	}
	if attrs.Flags&net.FlagUp == 0 {
		return nil, fmt.Errorf("interface %q is down: bring it up with: ip link set %s up", name, name)
	}
	d := &netdev{name: name, index: attrs.Index, mac: attrs.HardwareAddr, mtu: attrs.MTU}
	d.driver, d.queues = ethtool(name)
	if d.queues == 0 {
		d.queues = max(1, attrs.NumRxQueues)
	}
	if d.queues > bpf.MaxQueues {
		return nil, fmt.Errorf("interface %q has %d RX queues, xdptcp serves at most %d: reduce them with: ethtool -L %s combined %d",
			name, d.queues, bpf.MaxQueues, name, bpf.MaxQueues)
	}
	return d, nil
}

// ethtool asks the driver for its name and its number of RX queues; what it doesn't say is zero.
func ethtool(name string) (driver string, queues int) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", 0
	}
	defer unix.Close(fd)
	if info, err := unix.IoctlGetEthtoolDrvinfo(fd, name); err == nil {
		driver = unix.ByteSliceToString(info.Driver[:])
	}
	if channels, err := getChannels(fd, name); err == nil {
		queues = int(channels.rx + channels.combined)
	}
	return driver, queues
}

func interfaceNames() string {
	links, err := netlink.LinkList()
	if err != nil {
		return "?"
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return strings.Join(names, ", ")
}

// sharesHost says whether frames on this interface may come from a peer in the same host's memory,
// which leaves checksums to hardware that isn't there (CHECKSUM_PARTIAL in the kernel).
func (d *netdev) sharesHost() bool {
	switch d.driver {
	case "veth", "virtio_net", "tun", "hv_netvsc", "xen_netfront", "vif", "macvlan":
		return true
	}
	return false
}

// finishesSegments says whether what the kernel cuts and sums for this interface is finished when its peer sees it: a card
// does it, or the kernel, but a veth or virtio device that claims to do it leaves it undone.
func (d *netdev) finishesSegments() bool {
	if !d.sharesHost() {
		return true
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	claims, err := getValue(fd, d.name, unix.ETHTOOL_GTXCSUM)
	return err == nil && claims == 0
}

// frameSize is the UMEM chunk that holds this interface's frames.
func (d *netdev) frameSize() (int, error) {
	const headroom = 256  // XDP_PACKET_HEADROOM, which the kernel keeps at the chunk's start
	const link = 14 + 2*4 // Ethernet and two VLAN tags
	for _, size := range []int{2048, 4096} {
		if headroom+link+d.mtu <= size {
			return size, nil
		}
	}
	return 0, fmt.Errorf("MTU %d does not fit an AF_XDP buffer: at most %d; lower it with: ip link set %s mtu 1500",
		d.mtu, 4096-headroom-link, d.name)
}

// openSockets opens one AF_XDP socket for each RX queue.
func (d *netdev) openSockets() ([]*afxdp.Socket, error) {
	size, err := d.frameSize()
	if err != nil {
		return nil, err
	}
	bursts := d.finishesSegments()
	var sockets []*afxdp.Socket
	for queue := range d.queues {
		s, err := afxdp.Open(afxdp.Config{IfIndex: d.index, Queue: queue, FrameSize: size, Bursts: bursts})
		if err != nil {
			for _, s := range sockets {
				_ = s.Close() // the first error is the one to tell
			}
			return nil, fmt.Errorf("queue %d: %w", queue, err)
		}
		sockets = append(sockets, s)
	}
	return sockets, nil
}
