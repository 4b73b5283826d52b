// SPDX-License-Identifier: Apache-2.0

package afxdp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var modes = map[string]link.XDPAttachFlags{"native": link.XDPDriverMode, "generic": link.XDPGenericMode}

func TestReceivesFramesByteForByte(t *testing.T) {
	for name, mode := range modes {
		for _, chunk := range []int{2048, 4096} {
			t.Run(name, func(t *testing.T) {
				l := newLab(t)
				s := l.open(t, Config{FrameSize: chunk, RxFrames: 64, TxFrames: 64})
				if s.ZeroCopy() {
					t.Error("veth has learnt zero-copy: look at what this package assumes")
				}
				l.redirect(t, s, mode, nil)
				p := l.packetSocket(t)
				sizes := []int{60, 61, 64, 1000, 1513, 1514}
				for i, size := range sizes {
					p.send(t, frame(false, uint32(i), size))
				}
				ds := receiveN(t, s, len(sizes))
				for i, d := range ds {
					got := s.Frame(d)
					wantFrame(t, got, frame(false, uint32(i), sizes[i]))
					if cap(got) != len(got) {
						t.Errorf("capacity %d of a frame of %d reaches beyond it", cap(got), len(got))
					}
				}
				s.Recycle(ds)
				wantChunksAccounted(t, s)
				st := get(s.Stats())(t)
				if st.RxFrames != uint64(len(sizes)) || st.RxBytes != 60+61+64+1000+1513+1514 {
					t.Errorf("counted %d frames, %d bytes", st.RxFrames, st.RxBytes)
				}
			})
		}
	}
}

func TestReceivesWhatAUDPSocketSends(t *testing.T) {
	l := newLab(t)
	s := l.open(t, Config{RxFrames: 64, TxFrames: 64})
	l.redirect(t, s, link.XDPDriverMode, nil)
	var c net.Conn
	l.inPeer(t, func() {
		c = get(net.DialUDP("udp4", nil, &net.UDPAddr{IP: labIP, Port: 7}))(t)
	})
	defer c.Close()
	payload := []byte("to a port where nobody listens")
	get(c.Write(payload))(t)
	d := receiveN(t, s, 1)
	b := s.Frame(d[0])
	if !bytes.Equal(b[:6], labMAC) || !bytes.Equal(b[26:30], labPeerIP) || !bytes.Equal(b[42:], payload) {
		t.Fatalf("not the datagram that was sent: % x", b)
	}
}

func TestMetadataArrivesInFrontOfTheFrame(t *testing.T) {
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			s := l.open(t, Config{RxFrames: 64, TxFrames: 64})
			meta := []byte("32 bytes: the handshake's record")
			l.redirect(t, s, mode, meta)
			p := l.packetSocket(t)
			for _, size := range []int{60, 1514} {
				p.send(t, frame(false, 9, size))
				d := receiveN(t, s, 1)
				wantFrame(t, s.Frame(d[0]), frame(false, 9, size))
				if got := s.Meta(d[0], len(meta)); !bytes.Equal(got, meta) || cap(got) != len(meta) {
					t.Fatalf("metadata %q (capacity %d), want %q", got, cap(got), meta)
				}
				s.Recycle(d)
			}
		})
	}
}

func TestMetaStaysInsideTheChunk(t *testing.T) {
	s := &Socket{umem: get(newUmem(2048, 2, 2))(t)}
	defer s.umem.unmap()
	d := Desc{Addr: 2048 + 256, Len: 60}
	if len(s.Meta(d, 256)) != 256 {
		t.Error("the headroom is not all readable")
	}
	if s.Meta(d, 257) != nil || s.Meta(d, -1) != nil {
		t.Error("metadata reaches into the chunk before")
	}
}

func TestTransmittedFramesArriveAtThePeer(t *testing.T) {
	l := newLab(t)
	s := l.open(t, Config{RxFrames: 64, TxFrames: 64})
	p := l.packetSocket(t)
	var ds []Desc
	sizes := []int{60, 61, 1513, 1514}
	for i, size := range sizes {
		d, ok := s.Alloc()
		if !ok || d.Len != 2048 || len(s.Frame(d)) != 2048 {
			t.Fatalf("Alloc gave %+v, %v", d, ok)
		}
		d.Addr += uint64(2 * i) // a frame may start anywhere in its chunk
		d.Len = uint32(size)
		fillFrame(s.Frame(d), true, uint32(i))
		ds = append(ds, d)
	}
	if n := s.Transmit(ds); n != len(ds) || s.Pending() != len(ds) {
		t.Fatalf("Transmit took %d of %d, %d pending", n, len(ds), s.Pending())
	}
	must(t, s.Flush())
	buf := make([]byte, 2048)
	for i, size := range sizes {
		wantFrame(t, p.receive(t, buf), frame(true, uint32(i), size))
	}
	wantChunksAccounted(t, s)
	st := get(s.Stats())(t)
	if st.TxFrames != 4 || st.TxBytes != 60+61+1513+1514 || st.TxKicks == 0 || st.TxInvalidDescs != 0 {
		t.Errorf("counted %+v", st)
	}
}

// Every frame through in both directions at once, several times round all rings and all chunks, with
// another goroutine in Wait all the while.
func TestTensOfThousandsOfFramesWithoutLossOrLeak(t *testing.T) {
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			const total, window, size = 20_000, 100, 200
			l := newLab(t)
			s := l.open(t, Config{RxFrames: 512, TxFrames: 256})
			l.redirect(t, s, mode, nil)
			p := l.packetSocket(t)

			var mu sync.Mutex // the shard lock
			stop := make(chan struct{})
			var waiter sync.WaitGroup
			waiter.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						s.Wait(time.Millisecond)
						time.Sleep(50 * time.Microsecond)
					}
				}
			})

			in, out := make([]Desc, 64), make([]Desc, 0, 64)
			buf := make([]byte, 2048)
			sent, received, echoed := uint32(0), uint32(0), uint32(0)
			deadline := time.Now().Add(20 * time.Second)
			for echoed < total {
				for sent < total && sent-echoed < window {
					p.send(t, frame(false, sent, size))
					sent++
				}
				mu.Lock()
				n := s.Receive(in)
				out = out[:0]
				for _, d := range in[:n] {
					if got := binary.BigEndian.Uint32(s.Frame(d)[14:]); got != received {
						t.Fatalf("frame %d instead of %d", got, received)
					}
					wantFrame(t, s.Frame(d), frame(false, received, size))
					o, ok := s.Alloc()
					if !ok {
						t.Fatal("no TX chunk, though at most a window of them is in flight")
					}
					o.Len = size
					fillFrame(s.Frame(o), true, received)
					out = append(out, o)
					received++
				}
				s.Recycle(in[:n])
				s.Transmit(out)
				err := s.Flush()
				mu.Unlock()
				must(t, err)
				for echoed < received {
					wantFrame(t, p.receive(t, buf), frame(true, echoed, size))
					echoed++
				}
				if time.Now().After(deadline) {
					t.Fatalf("sent %d, received %d, echoed %d: %+v", sent, received, echoed, get(s.Stats())(t))
				}
			}
			close(stop)
			s.Wake()
			waiter.Wait()
			wantChunksAccounted(t, s)
			if st := get(s.Stats())(t); st.RxDropped+st.RxRingFull+st.FillRingEmpty+st.TxInvalidDescs != 0 {
				t.Errorf("losses: %+v", st)
			}
		})
	}
}

func TestEmptyFillRingIsCountedAndRecovers(t *testing.T) {
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			const chunks = 16
			l := newLab(t)
			s := l.open(t, Config{RxFrames: chunks, TxFrames: 16})
			l.redirect(t, s, mode, nil)
			p := l.packetSocket(t)
			for i := range uint32(chunks) {
				p.send(t, frame(false, i, 60))
			}
			held := receiveN(t, s, chunks)
			p.send(t, frame(false, 100, 60)) // no chunk for it
			for end := time.Now().Add(3 * time.Second); ; time.Sleep(time.Millisecond) {
				if st := get(s.Stats())(t); st.FillRingEmpty > 0 && st.RxDropped > 0 {
					break
				} else if time.Now().After(end) {
					t.Fatalf("a frame without a chunk was not counted: %+v", st)
				}
			}
			s.Recycle(held)
			for i := range uint32(3 * chunks) {
				p.send(t, frame(false, i, 60))
				d := receiveN(t, s, 1)
				wantFrame(t, s.Frame(d[0]), frame(false, i, 60))
				s.Recycle(d)
			}
			wantChunksAccounted(t, s)
		})
	}
}

func TestAllTXChunksTaken(t *testing.T) {
	l := newLab(t)
	s := l.open(t, Config{RxFrames: 16, TxFrames: 16})
	var ds []Desc
	for range 16 {
		d, ok := s.Alloc()
		if !ok {
			t.Fatalf("no chunk after %d of 16", len(ds))
		}
		ds = append(ds, d)
	}
	if d, ok := s.Alloc(); ok {
		t.Fatalf("a 17th chunk of 16: %+v", d)
	}
	for _, d := range ds {
		s.Free(d)
	}
	wantChunksAccounted(t, s)
}

func TestMisuseIsStoppedBeforeAChunkIsLost(t *testing.T) {
	l := newLab(t)
	s := l.open(t, Config{RxFrames: 16, TxFrames: 16})
	d, _ := s.Alloc()
	long, none, rx, chained := d, d, d, d
	long.Len = 2049
	none.Len = 0
	rx.Addr = 0
	chained.Options = unix.XDP_PKT_CONTD
	for name, f := range map[string]func(){
		"Recycle of what was not received": func() { s.Recycle([]Desc{{Addr: 256, Len: 60}}) },
		"Transmit beyond the chunk":        func() { s.Transmit([]Desc{long}) },
		"Transmit of nothing":              func() { s.Transmit([]Desc{none}) },
		"Transmit of an RX chunk":          func() { s.Transmit([]Desc{rx}) },
		"Transmit of part of a packet":     func() { s.Transmit([]Desc{chained}) },
		"Transmit of more than allocated":  func() { s.Transmit([]Desc{d, d}) },
		"Free of an RX chunk":              func() { s.Free(rx) },
		"Frame outside the UMEM":           func() { s.Frame(Desc{Addr: 1 << 40, Len: 1}) },
		"Frame with an address that wraps": func() { s.Frame(Desc{Addr: ^uint64(0), Len: 2}) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("accepted")
				}
			}()
			f()
		})
	}
	s.Free(d)
	wantChunksAccounted(t, s)
}

func TestSecondSocketOnAQueueIsToldWhy(t *testing.T) {
	l := newLab(t)
	l.open(t, Config{RxFrames: 16, TxFrames: 16})
	_, err := Open(Config{IfIndex: l.ifindex, RxFrames: 16, TxFrames: 16})
	if !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "open xsk0 queue 0 (auto): bind") ||
		!strings.Contains(err.Error(), "another AF_XDP socket holds queue 0") {
		t.Fatalf("got %v", err)
	}
}

func TestOpenRefusals(t *testing.T) {
	l := newLab(t)
	small := Config{IfIndex: l.ifindex, RxFrames: 16, TxFrames: 16}
	zero, queue, nodev := small, small, small
	zero.ZeroCopy = Zero
	queue.Queue = 99
	nodev.IfIndex = 4711
	for _, tc := range []struct {
		cfg   Config
		errno unix.Errno
		want  string
	}{
		{zero, unix.EOPNOTSUPP, "no zero-copy"},
		{queue, unix.EINVAL, "no queue 99"},
		{nodev, unix.ENODEV, "no such device"},
	} {
		s, err := Open(tc.cfg)
		if s != nil || !errors.Is(err, tc.errno) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("Open(%+v): %v, want %v with %q", tc.cfg, err, tc.errno, tc.want)
		}
	}
	// A refused Open leaves nothing behind that would hold the queue.
	l.open(t, small)
}

func TestCloseFreesTheQueue(t *testing.T) {
	l := newLab(t)
	for range 3 {
		s := get(Open(Config{IfIndex: l.ifindex, RxFrames: 16, TxFrames: 16, ZeroCopy: Copy}))(t)
		must(t, s.Close())
	}
}

func TestAfterCloseNothingMovesAndNothingCrashes(t *testing.T) {
	l := newLab(t)
	s := l.open(t, Config{RxFrames: 16, TxFrames: 16})
	d, _ := s.Alloc()
	must(t, s.Close())
	must(t, s.Close())
	s.Wake()
	s.Recycle([]Desc{{Addr: 256}})
	s.Free(d)
	if s.Receive(make([]Desc, 4)) != 0 || s.Transmit([]Desc{d}) != 0 || s.Pending() != 0 || s.FD() != -1 {
		t.Error("a closed socket moved something")
	}
	if _, ok := s.Alloc(); ok {
		t.Error("a closed socket gave a chunk")
	}
	_, waitErr := s.Wait(-1)
	_, statsErr := s.Stats()
	for what, err := range map[string]error{"Wait": waitErr, "Stats": statsErr, "Flush": s.Flush()} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v, want net.ErrClosed", what, err)
		}
	}
}

func TestWait(t *testing.T) {
	l := newLab(t)
	s := l.open(t, Config{RxFrames: 16, TxFrames: 16})
	l.redirect(t, s, link.XDPDriverMode, nil)
	p := l.packetSocket(t)
	expect := func(timeout time.Duration, want bool) time.Duration {
		t.Helper()
		start := time.Now()
		if ready, err := s.Wait(timeout); err != nil || ready != want {
			t.Fatalf("Wait(%v) = %v, %v after %v; want %v", timeout, ready, err, time.Since(start), want)
		}
		return time.Since(start)
	}

	expect(0, false)
	if d := expect(20*time.Millisecond, false); d < 20*time.Millisecond {
		t.Errorf("timed out after %v", d)
	}
	s.Wake()
	s.Wake()
	expect(-1, true)
	expect(0, false) // two Wakes are one
	s.Wake()
	expect(0, true)
	go func() { time.Sleep(10 * time.Millisecond); s.Wake() }()
	expect(-1, true)
	go func() { time.Sleep(10 * time.Millisecond); p.send(t, frame(false, 1, 60)) }()
	expect(-1, true)
	expect(0, true) // still there
	s.Recycle(receiveN(t, s, 1))
	expect(0, false)
}

func TestEveryWakeIsSeen(t *testing.T) {
	l := newLab(t)
	s := l.open(t, Config{RxFrames: 16, TxFrames: 16})
	// What a waker wrote before Wake, the waiter sees when Wait returns.
	var mu sync.Mutex
	told := 0
	go func() {
		for range 5000 {
			mu.Lock()
			told++
			mu.Unlock()
			s.Wake()
		}
	}()
	for {
		mu.Lock()
		n := told
		mu.Unlock()
		if n == 5000 {
			return
		}
		if ready, err := s.Wait(3 * time.Second); err != nil || !ready {
			t.Fatalf("a Wake was lost: %v after %d", err, n)
		}
	}
}

func TestCloseEndsAWaitInProgress(t *testing.T) {
	l := newLab(t)
	for range 20 {
		s := l.open(t, Config{RxFrames: 16, TxFrames: 16})
		done := make(chan error)
		go func() {
			for {
				if _, err := s.Wait(-1); err != nil {
					done <- err
					return
				}
			}
		}()
		go func() {
			for range 100 {
				s.Wake()
				s.Stats()
			}
		}()
		time.Sleep(time.Millisecond)
		must(t, s.Close())
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Fatalf("Wait: %v", err)
		}
	}
}

func TestFramesLeftOverGoOutWhenTheDeviceIsBack(t *testing.T) {
	l := newLab(t)
	s := l.open(t, Config{RxFrames: 16, TxFrames: 16})
	p := l.packetSocket(t)
	must(t, netlink.LinkSetDown(l.dev))
	d, _ := s.Alloc()
	d.Len = 60
	fillFrame(s.Frame(d), true, 5)

	asleep := make(chan error)
	go func() {
		_, err := s.Wait(-1)
		asleep <- err
	}()
	time.Sleep(5 * time.Millisecond)
	s.Transmit([]Desc{d})
	if err := s.Flush(); !errors.Is(err, unix.ENETDOWN) {
		t.Fatalf("Flush: %v", err)
	}
	must(t, <-asleep) // told of what was left

	start := time.Now()
	if ready, err := s.Wait(time.Second); !ready || err != nil || time.Since(start) > 500*time.Millisecond {
		t.Fatalf("Wait with a frame left over: %v, %v after %v", ready, err, time.Since(start))
	}
	must(t, netlink.LinkSetUp(l.dev))
	must(t, s.Flush())
	wantFrame(t, p.receive(t, make([]byte, 2048)), frame(true, 5, 60))
	wantChunksAccounted(t, s)
}

func TestAVanishedDeviceIsReported(t *testing.T) {
	l := newLab(t)
	s := l.open(t, Config{RxFrames: 16, TxFrames: 16})
	must(t, netlink.LinkDel(l.dev))
	for range 2 { // not only once
		if _, err := s.Wait(time.Millisecond); !errors.Is(err, unix.ENETDOWN) {
			t.Fatalf("Wait: %v", err)
		}
	}
	d, _ := s.Alloc()
	s.Transmit([]Desc{d})
	if err := s.Flush(); !errors.Is(err, unix.ENXIO) {
		t.Fatalf("Flush: %v", err)
	}
}

func TestNothingIsAllocatedPerBatch(t *testing.T) {
	l := newLab(t)
	s := l.open(t, Config{RxFrames: 64, TxFrames: 64})
	l.redirect(t, s, link.XDPDriverMode, nil)
	p := l.packetSocket(t)
	f := frame(false, 1, 60)
	in, out := make([]Desc, 8), make([]Desc, 8)
	if n := testing.AllocsPerRun(200, func() {
		p.send(t, f)
		if ready, err := s.Wait(time.Second); !ready || err != nil {
			t.Fatal(ready, err)
		}
		n := s.Receive(in)
		for i, d := range in[:n] {
			o, _ := s.Alloc()
			o.Len = d.Len
			copy(s.Frame(o), s.Frame(d))
			s.Meta(d, 32)
			out[i] = o
		}
		s.Recycle(in[:n])
		s.Transmit(out[:n])
		must(t, s.Flush())
		s.Wake()
		s.Wait(time.Millisecond)
	}); n != 0 {
		t.Errorf("%v allocations per batch", n)
	}
}

// The kernel hands on a chunk before it publishes that the chunk's entry on the fill or TX ring is free. So
// few chunks that each is wanted again at once, and both ends of each ring busy on CPUs of their own.
func TestChunksComeBackBeforeTheirEntries(t *testing.T) {
	const chunks = 16
	t.Run("fill ring", func(t *testing.T) {
		l := newLab(t)
		s := l.open(t, Config{RxFrames: chunks, TxFrames: chunks})
		l.redirect(t, s, link.XDPDriverMode, nil)
		stop, done := make(chan struct{}), make(chan error, 1)
		go func() { done <- l.generate(frame(false, 1, 60), 1<<14, stop) }()
		batch := make([]Desc, chunks)
		for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
			s.Recycle(batch[:s.Receive(batch)])
		}
		close(stop)
		must(t, <-done)
		for s.rx.pending() > 0 {
			s.Recycle(batch[:s.Receive(batch)])
		}
		wantChunksAccounted(t, s)
	})
	t.Run("TX ring", func(t *testing.T) {
		l := newLab(t)
		s := l.open(t, Config{RxFrames: chunks, TxFrames: chunks})
		arrived := l.countArrivals(t)
		stop := make(chan struct{})
		var waiter sync.WaitGroup
		waiter.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					s.Wait(time.Nanosecond) // sends too
				}
			}
		})
		for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
			for d, ok := s.Alloc(); ok; d, ok = s.Alloc() {
				d.Len = 60
				s.Transmit([]Desc{d})
			}
		}
		close(stop)
		waiter.Wait()
		wantChunksAccounted(t, s)
		if sent := get(s.Stats())(t).TxFrames; sent < 10*chunks || arrived(t) == 0 {
			t.Errorf("only %d frames sent, %d arrived", sent, arrived(t))
		}
	})
}
