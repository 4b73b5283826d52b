// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A listener is a TCP socket of the kernel's in state LISTEN.
type listener struct {
	addr   netip.AddrPort // unspecified: any
	v6only bool
	mptcp  bool
}

// serves says whether some connection to a service of an interface with these addresses would be its.
func (l listener) serves(s Service, own []netip.Addr) bool {
	if s.Prefix.IsValid() {
		if a := l.addr.Addr(); !a.IsUnspecified() {
			return l.addr.Port() == s.Port && s.Prefix.Contains(a.Unmap())
		}
		own = []netip.Addr{s.Prefix.Addr()}
	}
	return l.addr.Port() == s.Port && slices.ContainsFunc(own, func(a netip.Addr) bool {
		if !l.addr.Addr().IsUnspecified() {
			return l.addr.Addr() == a
		}
		return a.Is4() == l.addr.Addr().Is4() || a.Is4() && !l.v6only
	})
}

// Of include/uapi/linux/inet_diag.h and sock_diag.h.
const (
	inetDiagReqSize  = 56 // struct inet_diag_req_v2
	inetDiagMsgSize  = 72 // struct inet_diag_msg
	inetDiagInfo     = 2
	inetDiagSKV6Only = 11
	inetDiagULPInfo  = 19
	inetULPInfoName  = 1
	sockDiagByFamily = 20
	tcpListen        = 10 // include/net/tcp_states.h
)

// listeners asks the kernel who listens on a port in the calling thread's network namespace.
func listeners(port uint16) (list []listener, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		req := nl.NewNetlinkRequest(sockDiagByFamily, unix.NLM_F_DUMP)
		body := make([]byte, inetDiagReqSize)
		body[0], body[1], body[2] = family, unix.IPPROTO_TCP, 1<<(inetDiagInfo-1) // which brings the ULP along
		binary.NativeEndian.PutUint32(body[4:], 1<<tcpListen)
		binary.BigEndian.PutUint16(body[8:], port)
		req.AddRawData(body)
		msgs, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
		if err != nil {
			return nil, fmt.Errorf("asking the kernel for its listeners: %w", err)
		}
		for _, m := range msgs {
			l, err := parseListener(m)
			if err != nil {
				return nil, fmt.Errorf("asking the kernel for its listeners: %w", err)
			}
			if l.addr.Port() == port {
				list = append(list, l)
			}
		}
	}
	return list, nil
}

// parseListener reads a struct inet_diag_msg and its attributes.
func parseListener(m []byte) (l listener, err error) {
	if len(m) < inetDiagMsgSize {
		return l, fmt.Errorf("an answer of %d bytes", len(m))
	}
	addr := netip.AddrFrom4([4]byte(m[8:12]))
	if m[0] == unix.AF_INET6 {
		addr = netip.AddrFrom16([16]byte(m[8:24])).Unmap()
	}
	l.addr = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(m[4:]))
	attrs, err := nl.ParseRouteAttr(m[inetDiagMsgSize:])
	if err != nil {
		return l, err
	}
	for _, a := range attrs {
		switch a.Attr.Type &^ unix.NLA_F_NESTED {
		case inetDiagSKV6Only:
			l.v6only = len(a.Value) > 0 && a.Value[0] != 0
		case inetDiagULPInfo:
			nested, err := nl.ParseRouteAttr(a.Value)
			if err != nil {
				return l, err
			}
			for _, n := range nested {
				if n.Attr.Type == inetULPInfoName {
					l.mptcp = unix.ByteSliceToString(n.Value) == "mptcp"
				}
			}
		}
	}
	return l, nil
}
