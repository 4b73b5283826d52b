// SPDX-License-Identifier: Apache-2.0

// Package wire gives views over the bytes of a frame: Ethernet, up to two VLAN tags, IPv4 or IPv6, and TCP
// with its options.
//
// A frame is read once by [Parse], which fills a [Packet] that the caller reuses: nothing is allocated, and
// the payload stays where the NIC put it. A frame is written by a [Template], the prebuilt headers of one
// connection's replies, into a buffer where the payload already lies:
//
//	frame:  | link 14..22 | IP 20/40 | TCP 20..60 |  payload  |
//	                                              ^ HeaderLen  ^ Marshal's result
//
// The ICMP errors that routers send about our segments are read by [ParseICMP].
//
// Everything a caller sees is in host byte order. The package knows segments, not connections.
package wire

import "errors"

// The reasons for which Parse and ParseICMP refuse a frame. They are compared by identity and carry no details, so that
// refusing costs no allocation.
var (
	ErrTruncated = errors.New("wire: frame ends inside a header")
	ErrLinkType  = errors.New("wire: neither IPv4 nor IPv6 behind the link header")
	ErrVersion   = errors.New("wire: IP version differs from the EtherType")
	ErrIPLength  = errors.New("wire: IP length is wrong or longer than the frame")
	ErrFragment  = errors.New("wire: IP fragment")
	ErrExtension = errors.New("wire: too many or unknown IPv6 extension headers")
	ErrNotTCP    = errors.New("wire: not TCP")
	ErrTCPLength = errors.New("wire: TCP data offset is wrong or longer than the packet")

	ErrICMPChecksum = errors.New("wire: ICMP checksum is wrong")
	ErrICMPType     = errors.New("wire: not an ICMP error that is about a segment")
	ErrICMPQuote    = errors.New("wire: ICMP error that does not quote the start of a segment of ours")
)
