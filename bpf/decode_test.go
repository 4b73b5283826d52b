// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// A packet is what decode reads out of a frame.
type packet struct {
	segment
	urgent       uint16
	text         string // the options in words
	tsval, tsecr uint32
	trailer      []byte // behind the end of the IP packet
}

// decode reads a frame with gopacket, and refuses one that is not, bit for bit, what gopacket writes
// for the same fields with its own lengths and checksums.
func decode(b []byte) (p packet, err error) {
	var (
		eth     = layers.Ethernet{}
		first   = layers.Dot1Q{}
		second  = layers.Dot1Q{}
		ip4     = layers.IPv4{}
		ip6     = layers.IPv6{}
		tcp     = layers.TCP{}
		decoded gopacket.NetworkLayer
		rewrite []gopacket.SerializableLayer
	)
	if err := eth.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
		return p, err
	}
	p.to, p.from = [6]byte(eth.DstMAC), [6]byte(eth.SrcMAC)
	rewrite = append(rewrite, &eth)
	kind, rest := eth.EthernetType, eth.Payload
	for _, q := range []*layers.Dot1Q{&first, &second} {
		if kind != layers.EthernetTypeDot1Q && kind != layers.EthernetTypeQinQ {
			break
		}
		if err := q.DecodeFromBytes(rest, gopacket.NilDecodeFeedback); err != nil {
			return p, err
		}
		tci := uint16(q.Priority)<<13 | q.VLANIdentifier
		if q.DropEligible {
			tci |= 1 << 12
		}
		p.tags = append(p.tags, tag{uint16(kind), tci})
		rewrite = append(rewrite, q)
		kind, rest = q.Type, q.Payload
	}
	switch kind {
	case layers.EthernetTypeIPv4:
		if err := ip4.DecodeFromBytes(rest, gopacket.NilDecodeFeedback); err != nil {
			return p, err
		}
		p.tos, p.ttl, p.id = ip4.TOS, ip4.TTL, ip4.Id
		p.fragment = uint16(ip4.Flags)<<13 | ip4.FragOffset
		for _, o := range ip4.Options {
			p.ipOptions = append(p.ipOptions, o.OptionType)
		}
		decoded = &ip4
		err = p.transport(&tcp, ip4.Protocol, ip4.SrcIP.To4(), ip4.DstIP.To4(), ip4.Payload)
		rewrite = append(rewrite, &ip4)
	case layers.EthernetTypeIPv6:
		if err := ip6.DecodeFromBytes(rest, gopacket.NilDecodeFeedback); err != nil {
			return p, err
		}
		p.tos, p.ttl, p.label = ip6.TrafficClass, ip6.HopLimit, ip6.FlowLabel
		decoded = &ip6
		err = p.transport(&tcp, ip6.NextHeader, ip6.SrcIP, ip6.DstIP, ip6.Payload)
		rewrite = append(rewrite, &ip6)
	default:
		err = fmt.Errorf("EtherType %v", kind)
	}
	if err != nil {
		return p, err
	}
	if err := tcp.SetNetworkLayerForChecksum(decoded); err != nil {
		return p, err
	}
	rewrite = append(rewrite, &tcp, gopacket.Payload(tcp.Payload))
	again := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(again, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, rewrite...); err != nil {
		return p, err
	}
	size := len(b) - len(rest) + len(decoded.LayerContents()) + len(decoded.LayerPayload())
	if !bytes.Equal(again.Bytes()[:size], b[:size]) {
		return p, fmt.Errorf("lengths or checksums are wrong:\n  is %x\nwant %x", b[:size], again.Bytes()[:size])
	}
	p.trailer = b[size:]
	return p, nil
}

// transport reads the TCP segment.
func (p *packet) transport(tcp *layers.TCP, proto layers.IPProtocol, src, dst, b []byte) error {
	if proto != layers.IPProtocolTCP {
		return fmt.Errorf("IP protocol %v", proto)
	}
	if err := tcp.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
		return err
	}
	from, _ := netip.AddrFromSlice(src)
	to, _ := netip.AddrFromSlice(dst)
	p.src, p.dst = netip.AddrPortFrom(from, uint16(tcp.SrcPort)), netip.AddrPortFrom(to, uint16(tcp.DstPort))
	p.seq, p.ack, p.window, p.urgent = tcp.Seq, tcp.Ack, tcp.Window, tcp.Urgent
	p.flags, p.payload = tcp.Contents[13], tcp.Payload
	if reserved := tcp.Contents[12] & 15; reserved != 0 {
		return fmt.Errorf("reserved bits %#x", reserved)
	}
	p.options = tcp.Contents[tcpLen:]
	var words []string
	for _, o := range tcp.Options {
		words = append(words, p.option(o))
	}
	p.text = strings.Join(words, " ")
	return nil
}

// option puts an option in words: all of them together are like "mss=1460 sack ts nop ws=7".
func (p *packet) option(o layers.TCPOption) string {
	switch o.OptionType {
	case layers.TCPOptionKindEndList:
		return "end"
	case layers.TCPOptionKindNop:
		return "nop"
	case layers.TCPOptionKindMSS:
		return fmt.Sprintf("mss=%d", binary.BigEndian.Uint16(o.OptionData))
	case layers.TCPOptionKindWindowScale:
		return fmt.Sprintf("ws=%d", o.OptionData[0])
	case layers.TCPOptionKindSACKPermitted:
		return "sack"
	case layers.TCPOptionKindTimestamps:
		p.tsval, p.tsecr = binary.BigEndian.Uint32(o.OptionData), binary.BigEndian.Uint32(o.OptionData[4:])
		return "ts"
	}
	return fmt.Sprintf("kind %d: %x", o.OptionType, o.OptionData)
}
