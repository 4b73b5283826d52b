// SPDX-License-Identifier: Apache-2.0

package afxdp

import (
	"fmt"
)

// Receive takes up to len(d) received frames off the RX ring and returns how many. Their
// chunks are the caller's until Recycle.
func (s *Socket) Receive(d []Desc) int {
	if s.closed.Load() {
		return 0
	}
	n := s.rx.pop(d)
	if n == 0 {
		return 0
	}
	s.rxHeld += n
	bytes := uint64(0)
	for i := range d[:n] {
		bytes += uint64(d[i].Len)
	}
	s.counters.rxFrames.Add(uint64(n))
	s.counters.rxBytes.Add(bytes)
	return n
}

// Meta returns the n bytes in front of a received frame, where the XDP program's metadata ends. nil if n
// is more than the headroom. See the package comment: read a record, then clear it.
func (s *Socket) Meta(d Desc, n int) []byte {
	if n < 0 || uint64(n) > d.Addr-s.umem.base(d.Addr) {
		return nil
	}
	return s.umem.mem[d.Addr-uint64(n) : d.Addr : d.Addr]
}

// Recycle gives chunks of received frames back to the kernel, through the fill ring. It panics on a
// chunk that is not for receiving, and when more come back than were received: the same memory would be
// handed out twice.
func (s *Socket) Recycle(d []Desc) {
	if len(d) == 0 || s.closed.Load() {
		return
	}
	if s.rxHeld < len(d) {
		panic(fmt.Sprintf("afxdp: Recycle of %d chunks, but only %d are out", len(d), s.rxHeld))
	}
	if room := s.fill.room(len(d)); room < len(d) {
		panic(fmt.Sprintf("afxdp: fill ring has room for %d of %d chunks: its indices are corrupt", room, len(d)))
	}
	for i := range d {
		if !s.umem.isRx(d[i].Addr) {
			panic(fmt.Sprintf("afxdp: Recycle of %+v: not a received frame", d[i]))
		}
		s.fill.set(i, s.umem.base(d[i].Addr))
	}
	s.fill.publish(len(d))
	s.rxHeld -= len(d)
	if s.fill.needWakeup() {
		// A failure leaves the flag set, and the next Recycle or Wait asks again.
		kickRx(s.fd)
		s.counters.rxWakeups.Add(1)
	}
}
