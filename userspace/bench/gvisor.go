// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/link/xdp"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	gvisor "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// gVisor's netstack has two ways to a network interface, and neither is better at everything: AF_XDP, and AF_PACKET (with
// recvmmsg, its default). Checksums are gVisor's to make and to check, as they are ours and the kernel's.

const nic tcpip.NICID = 1

var (
	serverAddr = tcpip.AddrFrom4([4]byte{192, 0, 2, 1}) // the lab's; the kernel has given it up
	clientAddr = tcpip.AddrFrom4([4]byte{192, 0, 2, 2})
)

// openGvisor runs netstack over its AF_XDP endpoint.
func openGvisor(at place) (*stack, error) {
	dev, err := net.InterfaceByName(at.iface)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket(AF_XDP): %w", err)
	}
	ep, err := xdp.New(&xdp.Options{
		FD: fd, Address: tcpip.LinkAddress(dev.HardwareAddr), InterfaceIndex: dev.Index, Bind: true,
	})
	if err != nil {
		return nil, err
	}
	attached, err := redirectAll(fd, dev.Index)
	if err != nil {
		return nil, err
	}
	return gvisorOn(ep, at, func() { _ = attached.Close() })
}

// redirectAll has all frames of queue 0 go to an AF_XDP socket.
func redirectAll(fd, ifindex int) (link.Link, error) {
	socks, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("make the XSKMAP: %w", err)
	}
	if err := socks.Put(uint32(0), uint32(fd)); err != nil {
		return nil, fmt.Errorf("put the socket into the XSKMAP: %w", err)
	}
	const xdpPass = 2
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.LoadMapPtr(asm.R1, socks.FD()),
			asm.Mov.Imm(asm.R2, 0),
			asm.Mov.Imm(asm.R3, xdpPass), // if there is no socket
			asm.FnRedirectMap.Call(),
			asm.Return(),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("load the XDP program: %w", err)
	}
	return link.AttachXDP(link.XDPOptions{Program: prog, Interface: ifindex, Flags: link.XDPDriverMode})
}

// openGvisorPacket runs netstack over its AF_PACKET endpoint.
func openGvisorPacket(at place) (*stack, error) {
	dev, err := net.InterfaceByName(at.iface)
	if err != nil {
		return nil, err
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		return nil, fmt.Errorf("socket(AF_PACKET): %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index}); err != nil {
		return nil, fmt.Errorf("bind(AF_PACKET): %w", err)
	}
	// The default holds 90 full frames, and bursts are larger.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
		return nil, fmt.Errorf("setsockopt(SO_RCVBUFFORCE): %w", err)
	}
	ep, err := fdbased.New(&fdbased.Options{
		FDs: []int{fd}, MTU: 1500, EthernetHeader: true, Address: tcpip.LinkAddress(dev.HardwareAddr),
		PacketDispatchMode: fdbased.RecvMMsg,
	})
	if err != nil {
		return nil, err
	}
	return gvisorOn(ep, at, func() {})
}

func gvisorOn(ep gvisor.LinkEndpoint, at place, closeLink func()) (*stack, error) {
	s := gvisor.New(gvisor.Options{
		NetworkProtocols:   []gvisor.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []gvisor.TransportProtocolFactory{tcp.NewProtocol},
	})
	// As other users of netstack have it: SACK is off by default.
	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	cubic := tcpip.CongestionControlOption("cubic")
	for _, opt := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &cubic} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, opt); err != nil {
			return nil, fmt.Errorf("set %T: %s", opt, err)
		}
	}
	if err := s.CreateNIC(nic, ep); err != nil {
		return nil, fmt.Errorf("create the NIC: %s", err)
	}
	addr := tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: serverAddr, PrefixLen: 24},
	}
	if err := s.AddProtocolAddress(nic, addr, gvisor.AddressProperties{}); err != nil {
		return nil, fmt.Errorf("add the address: %s", err)
	}
	if err := s.AddStaticNeighbor(nic, ipv4.ProtocolNumber, clientAddr, tcpip.LinkAddress(at.peerMAC)); err != nil {
		return nil, fmt.Errorf("add the neighbour: %s", err)
	}
	s.SetRouteTable([]tcpip.Route{
		{Destination: addr.AddressWithPrefix.Subnet(), NIC: nic},
		{Destination: header.IPv4EmptySubnet, Gateway: clientAddr, NIC: nic},
	})
	return &stack{
		listen: func(port uint16) (net.Listener, error) {
			return gonet.ListenTCP(s, tcpip.FullAddress{NIC: nic, Addr: serverAddr, Port: port}, ipv4.ProtocolNumber)
		},
		close: closeLink,
	}, nil
}
