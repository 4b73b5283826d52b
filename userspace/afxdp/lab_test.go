// SPDX-License-Identifier: Apache-2.0

package afxdp

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A lab is a veth pair between two anonymous network namespaces, which vanish with their last file
// descriptor, so with the process at the latest. The test's thread is in ours; the peer is in the other.
type lab struct {
	ours, peers        netns.NsHandle
	ifindex, peerIndex int
	mac, peerMAC       net.HardwareAddr
	dev                netlink.Link
}

var (
	labMAC     = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	labPeerMAC = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	labIP      = net.IPv4(192, 0, 2, 1).To4()
	labPeerIP  = net.IPv4(192, 0, 2, 2).To4()
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func get[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		must(t, err)
		return v
	}
}

func newLab(t testing.TB) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces, loads XDP programs")
	}
	runtime.LockOSThread()
	before := get(netns.Get())(t)
	t.Cleanup(func() {
		// If the thread cannot go back, leave it locked: the runtime then ends it with its goroutine.
		if netns.Set(before) == nil {
			runtime.UnlockOSThread()
		}
		before.Close()
	})
	l := &lab{mac: labMAC, peerMAC: labPeerMAC}
	newNS := func() netns.NsHandle {
		ns := get(netns.New())(t)
		t.Cleanup(func() { ns.Close() })
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0o644)
		return ns
	}
	l.peers = newNS()
	l.ours = newNS()

	must(t, netlink.LinkAdd(&netlink.Veth{
		LinkAttrs:        netlink.LinkAttrs{Name: "xsk0", HardwareAddr: l.mac, TxQLen: -1},
		PeerName:         "peer0",
		PeerHardwareAddr: l.peerMAC,
		PeerNamespace:    netlink.NsFd(l.peers),
	}))
	setUp := func(name string, ip, otherIP net.IP, otherMAC net.HardwareAddr) netlink.Link {
		dev := get(netlink.LinkByName(name))(t)
		must(t, netlink.AddrAdd(dev, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(24, 32)}}))
		must(t, netlink.LinkSetUp(dev))
		must(t, netlink.NeighAdd(&netlink.Neigh{LinkIndex: dev.Attrs().Index, State: netlink.NUD_PERMANENT,
			IP: otherIP, HardwareAddr: otherMAC}))
		return dev
	}
	l.inPeer(t, func() { l.peerIndex = setUp("peer0", labPeerIP, labIP, l.mac).Attrs().Index })
	l.dev = setUp("xsk0", labIP, labPeerIP, l.peerMAC)
	l.ifindex = l.dev.Attrs().Index
	waitForCarrier(t, l.ifindex)
	l.inPeer(t, func() { waitForCarrier(t, l.peerIndex) })
	return l
}

// waitForCarrier: until the kernel's link watch has run, a device has its carrier but drops what is sent.
func waitForCarrier(t testing.TB, ifindex int) {
	t.Helper()
	for range 2000 {
		if get(netlink.LinkByIndex(ifindex))(t).Attrs().OperState == netlink.OperUp {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
	t.Fatal("the veth pair did not come up")
}

// inPeer runs f in the peer's namespace.
func (l *lab) inPeer(t testing.TB, f func()) {
	t.Helper()
	must(t, netns.Set(l.peers))
	defer func() { must(t, netns.Set(l.ours)) }()
	f()
}

func (l *lab) open(t testing.TB, cfg Config) *Socket {
	t.Helper()
	cfg.IfIndex = l.ifindex
	s := get(Open(cfg))(t)
	t.Cleanup(func() { s.Close() })
	return s
}

// redirect attaches a program to our end that sends every frame to s, with meta in front of it.
func (l *lab) redirect(t testing.TB, s *Socket, mode link.XDPAttachFlags, meta []byte) {
	t.Helper()
	m := get(ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: 4}))(t)
	t.Cleanup(func() { m.Close() })
	must(t, m.Put(uint32(0), uint32(s.FD())))

	ins := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	if len(meta) > 0 {
		ins = append(ins,
			asm.Mov.Imm(asm.R2, int32(-len(meta))),
			asm.FnXdpAdjustMeta.Call(),
			asm.JNE.Imm(asm.R0, 0, "pass"),
			asm.LoadMem(asm.R2, asm.R6, 8, asm.Word), // data_meta
			asm.LoadMem(asm.R3, asm.R6, 0, asm.Word), // data
			asm.Mov.Reg(asm.R4, asm.R2),
			asm.Add.Imm(asm.R4, int32(len(meta))),
			asm.JGT.Reg(asm.R4, asm.R3, "pass"),
		)
		for i := 0; i < len(meta); i += 4 {
			ins = append(ins, asm.StoreImm(asm.R2, int16(i), int64(int32(binary.NativeEndian.Uint32(meta[i:]))), asm.Word))
		}
	}
	ins = append(ins,
		asm.LoadMem(asm.R2, asm.R6, 16, asm.Word), // rx_queue_index
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Imm(asm.R3, 2), // XDP_PASS where the map has no socket
		asm.FnRedirectMap.Call(),
		asm.Return(),
	)
	if len(meta) > 0 {
		ins = append(ins, asm.Mov.Imm(asm.R0, 2).WithSymbol("pass"), asm.Return())
	}
	l.attach(t, l.ifindex, ins, mode)
}

func (l *lab) attach(t testing.TB, ifindex int, ins asm.Instructions, mode link.XDPAttachFlags) {
	t.Helper()
	p := get(ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, AttachType: ebpf.AttachXDP, Instructions: ins, License: "MIT"}))(t)
	lk := get(link.AttachXDP(link.XDPOptions{Program: p, Interface: ifindex, Flags: mode}))(t)
	t.Cleanup(func() { lk.Close(); p.Close() })
}

const testEtherType = 0x88b5 // for local experiments

// frame is a test frame from the peer (or to it, if out): numbered, filled, size bytes long.
func frame(out bool, number uint32, size int) []byte {
	b := make([]byte, size)
	fillFrame(b, out, number)
	return b
}

func fillFrame(b []byte, out bool, number uint32) {
	dst, src := labMAC, labPeerMAC
	if out {
		dst, src = src, dst
	}
	copy(b, dst)
	copy(b[6:], src)
	binary.BigEndian.PutUint16(b[12:], testEtherType)
	binary.BigEndian.PutUint32(b[14:], number)
	for i := 18; i < len(b); i++ {
		b[i] = byte(number) + byte(i)
	}
}

// A packetSocket is an AF_PACKET socket on the peer's end.
type packetSocket int

func (l *lab) packetSocket(t testing.TB) packetSocket {
	t.Helper()
	var fd int
	l.inPeer(t, func() {
		proto := int(binary.NativeEndian.Uint16([]byte{testEtherType >> 8, testEtherType & 0xff}))
		fd = get(unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto))(t)
		must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(proto), Ifindex: l.peerIndex}))
		must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20))
		must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3}))
	})
	t.Cleanup(func() { unix.Close(fd) })
	return packetSocket(fd)
}

func (p packetSocket) send(t testing.TB, b []byte) {
	t.Helper()
	for {
		_, err := unix.Write(int(p), b)
		if err == unix.EINTR || err == unix.ENOBUFS {
			continue
		}
		must(t, err)
		return
	}
}

func (p packetSocket) receive(t testing.TB, buf []byte) []byte {
	t.Helper()
	for {
		n, err := unix.Read(int(p), buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			t.Fatalf("nothing arrived at the peer: %v", err)
		}
		return buf[:n]
	}
}

// receiveN waits for exactly n frames and returns their descriptors.
func receiveN(t testing.TB, s *Socket, n int) []Desc {
	t.Helper()
	d := make([]Desc, n)
	for got := 0; got < n; {
		k := s.Receive(d[got:])
		if k > 0 {
			got += k
			continue
		}
		if ready, err := s.Wait(3 * time.Second); err != nil || !ready {
			st, _ := s.Stats()
			t.Fatalf("%d of %d frames after 3 s (%v): %+v", got, n, err, st)
		}
	}
	return d
}

func wantFrame(t testing.TB, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("frame differs:\n got %d bytes % x\nwant %d bytes % x", len(got), head(got), len(want), head(want))
	}
}

func head(b []byte) []byte { return b[:min(len(b), 48)] }

// wantChunksAccounted checks that every chunk is in exactly one place, with none in the caller's hands.
func wantChunksAccounted(t testing.TB, s *Socket) {
	t.Helper()
	if s.rxHeld != 0 || s.txHeld != 0 {
		t.Errorf("in the caller's hands: %d RX, %d TX chunks", s.rxHeld, s.txHeld)
	}
	if n := s.rx.pending(); n != 0 {
		t.Errorf("%d frames on the RX ring", n)
	}
	chunk := s.umem.chunk
	rxChunks := uint32(s.umem.tx / chunk)

	// With every RX chunk given back, the last entries written to the fill ring, as many as there are chunks,
	// name each once: the kernel takes from the other end, and what it took and did
	// not give us, it has kept for the next frame.
	seen := map[uint64]bool{}
	for i := range rxChunks {
		seen[s.fill.entries[(s.fill.ours-1-i)&s.fill.mask]] = true
	}
	for a := uint64(0); a < s.umem.tx; a += chunk {
		if !seen[a] {
			t.Errorf("RX chunk %#x is missing", a)
		}
	}
	if uint32(len(seen)) != rxChunks {
		t.Errorf("%d different RX chunks, want %d", len(seen), rxChunks)
	}

	txChunks := (len(s.umem.mem) - int(s.umem.tx)) / int(chunk)
	for end := time.Now().Add(3 * time.Second); len(s.umem.freeTx) < txChunks && time.Now().Before(end); {
		must(t, s.Flush())
		s.reap()
		time.Sleep(time.Millisecond)
	}
	clear(seen)
	for _, a := range s.umem.freeTx {
		if seen[a] || !s.umem.isTx(a) || a%chunk != 0 {
			t.Errorf("TX chunk %#x is free twice, or none", a)
		}
		seen[a] = true
	}
	if len(seen) != txChunks || s.Pending() != 0 {
		t.Errorf("%d of %d TX chunks free, %d still on the ring", len(seen), txChunks, s.Pending())
	}
}

// generate sends f out of the peer's end as XDP frames made in the kernel, burst by burst until told to stop.
func (l *lab) generate(f []byte, burst uint32, stop <-chan struct{}) error {
	runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
	if err := netns.Set(l.peers); err != nil {
		return err
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "MIT", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, 3), // XDP_TX
		asm.Return(),
	}})
	if err != nil {
		return err
	}
	defer p.Close()
	md := struct{ Data, DataEnd, DataMeta, Ingress, Queue, Egress uint32 }{
		DataEnd: uint32(len(f)), Ingress: uint32(l.peerIndex),
	}
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		_, err := p.Run(&ebpf.RunOptions{Data: f, Context: md, Repeat: burst, BatchSize: 256,
			Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES})
		if err != nil {
			return err
		}
	}
}

// countArrivals drops and counts what arrives at the peer.
func (l *lab) countArrivals(t testing.TB) func(testing.TB) uint64 {
	t.Helper()
	m := get(ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}))(t)
	t.Cleanup(func() { m.Close() })
	l.inPeer(t, func() {
		l.attach(t, l.peerIndex, asm.Instructions{
			asm.LoadMapValue(asm.R1, m.FD(), 0),
			asm.Mov.Imm(asm.R2, 1),
			asm.AddAtomic.Mem(asm.R1, asm.R2, asm.DWord, 0),
			asm.Mov.Imm(asm.R0, 1), // XDP_DROP
			asm.Return(),
		}, link.XDPDriverMode)
	})
	return func(t testing.TB) uint64 {
		time.Sleep(5 * time.Millisecond)
		v := get(m.LookupBytes(uint32(0)))(t)
		return binary.NativeEndian.Uint64(v)
	}
}
