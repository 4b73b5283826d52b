// SPDX-License-Identifier: Apache-2.0

package afxdp

import (
	"fmt"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
)

// Copy mode on veth: receive and give back. The peer makes XDP frames in the kernel
// (BPF_PROG_TEST_RUN with live frames), which is faster than any socket sends; so frames are
// lost on the way ("lost/s"), and frames/s is what we can take.
func BenchmarkReceive(b *testing.B) {
	for _, size := range []int{60, 1514} {
		for _, spin := range []bool{false, true} {
			b.Run(fmt.Sprintf("size=%d/spin=%v", size, spin), func(b *testing.B) {
				l := newLab(b)
				s := l.open(b, Config{})
				l.redirect(b, s, link.XDPDriverMode, nil)
				stop, done := make(chan struct{}), make(chan error, 1)
				go func() { done <- l.generate(frame(false, 1, size), 1<<22, stop) }()
				defer func() {
					close(stop)
					must(b, <-done)
				}()
				batch := make([]Desc, 64)
				s.Recycle(receiveN(b, s, 1024)) // the generator is up to speed
				before := get(s.Stats())(b)
				b.ReportAllocs()
				b.ResetTimer()
				got := 0
				for got < b.N {
					n := s.Receive(batch)
					if n == 0 {
						if !spin {
							s.Wait(time.Second)
						}
						continue
					}
					s.Recycle(batch[:n])
					got += n
				}
				b.StopTimer()
				after := get(s.Stats())(b)
				b.ReportMetric(float64(got)/b.Elapsed().Seconds(), "frames/s")
				b.ReportMetric(float64(after.RxDropped-before.RxDropped)/b.Elapsed().Seconds(), "lost/s")
				b.ReportMetric(float64(after.Polls-before.Polls)/float64(got), "polls/frame")
			})
		}
	}
}

// Copy mode on veth: allocate, write an Ethernet header, send, to a peer that drops and counts in XDP. "sent" is
// what the kernel took, "arrived/s" what was not lost in veth's own ring.
func BenchmarkTransmit(b *testing.B) {
	for _, size := range []int{60, 1514} {
		for _, batch := range []int{1, 8, 32, 256} {
			b.Run(fmt.Sprintf("size=%d/batch=%d", size, batch), func(b *testing.B) {
				l := newLab(b)
				s := l.open(b, Config{})
				arrived := l.countArrivals(b)
				header := frame(true, 1, 60)
				ds := make([]Desc, batch)
				b.ReportAllocs()
				b.ResetTimer()
				for sent := 0; sent < b.N; {
					n := 0
					for n < batch {
						d, ok := s.Alloc()
						if !ok {
							break
						}
						d.Len = uint32(size)
						copy(s.Frame(d), header)
						ds[n] = d
						n++
					}
					sent += s.Transmit(ds[:n])
					must(b, s.Flush())
				}
				b.StopTimer()
				got := arrived(b)
				st := get(s.Stats())(b)
				b.ReportMetric(float64(st.TxFrames)/b.Elapsed().Seconds(), "frames/s")
				b.ReportMetric(float64(got)/b.Elapsed().Seconds(), "arrived/s")
				b.ReportMetric(float64(st.TxKicks)/float64(st.TxFrames), "kicks/frame")
			})
		}
	}
}

// What our side of a batch of 64 costs, without the kernel: RX ring to fill ring.
func BenchmarkReceiveRecycleAlone(b *testing.B) {
	s := &Socket{umem: get(newUmem(2048, 64, 64))(b)}
	defer s.umem.unmap()
	kernelRX, _ := newFakeRings(128, 0)
	fill, _ := newFakeRings(128, 0)
	s.fill = *fill
	s.rx = consumer[Desc]{ring[Desc]{
		producer: kernelRX.producer, consumer: kernelRX.consumer, flags: kernelRX.flags,
		entries: make([]Desc, 128), mask: 127,
	}}
	batch := make([]Desc, 64)
	for b.Loop() {
		kernelRX.publish(64)
		n := s.Receive(batch)
		s.Recycle(batch[:n])
		*s.fill.consumer = s.fill.ours
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/frame")
}
