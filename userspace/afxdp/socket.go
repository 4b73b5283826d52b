// SPDX-License-Identifier: Apache-2.0

package afxdp

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Desc is the kernel's struct xdp_desc: a frame of Len bytes at offset Addr of the UMEM.
// An alias, so that an interface over a Socket needs no import of this package.
type Desc = struct {
	Addr         uint64
	Len, Options uint32
}

// A Socket is one AF_XDP socket with a UMEM of its own. See the package comment for which methods
// need the user's lock. It must be closed: the collector does not do it.
type Socket struct {
	fd   int
	zero bool
	umem *umem

	rx   consumer[Desc]
	tx   producer[Desc]
	fill producer[uint64]
	comp consumer[uint64]

	rxHeld, txHeld int // chunks in the caller's hands
	reapIn         int // Allocs until the next look at the completion ring

	flushing turnstile // to kick

	maps [][]byte // the four rings' mappings, to be unmapped

	counters counters
	waiter   waiter
	burst    burster

	// open is held for reading by the methods that need no lock of the user's, while they use
	// a file descriptor or a ring; Close holds it for writing while it takes those away.
	open   sync.RWMutex
	closed atomic.Bool
}

// The kernel frees a queue some moments after its last socket is gone (a work item, after an RCU grace
// period; on a busy machine that may take a second), so EBUSY at bind is only believed after this long.
const busyPatience = 2 * time.Second

// Open opens a socket on a device's queue, in the network namespace of the calling thread, with all
// RX chunks on the fill ring. Frames come once its FD is in the XSKMAP of the XDP program on that device.
//
// It needs CAP_NET_RAW, and CAP_IPC_LOCK or enough RLIMIT_MEMLOCK. Errors wrap the kernel's errno.
func Open(cfg Config) (*Socket, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Socket{fd: -1, burst: burster{fd: -1}}
	s.waiter.fd = -1
	if err := s.setup(cfg); err != nil {
		s.release()
		return nil, err
	}
	return s, nil
}

func (s *Socket) setup(cfg Config) (err error) {
	fail := func(op string, err error) error { return openError(cfg, op, err) }

	if s.waiter.fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fail("eventfd", err)
	}
	if s.fd, err = unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return fail(opSocket, err)
	}
	if s.umem, err = newUmem(cfg.FrameSize, cfg.RxFrames, cfg.TxFrames); err != nil {
		return fail(opMapUmem, err)
	}
	if err = setUmemReg(s.fd, s.umem.mem, cfg.FrameSize); err != nil {
		return fail(opRegister, err)
	}
	for _, r := range [...]struct{ opt, n int }{
		{unix.XDP_UMEM_FILL_RING, 2 * cfg.RxFrames}, {unix.XDP_RX_RING, cfg.RxFrames},
		{unix.XDP_UMEM_COMPLETION_RING, cfg.TxFrames}, {unix.XDP_TX_RING, 2 * cfg.TxFrames},
	} {
		if err = unix.SetsockoptInt(s.fd, unix.SOL_XDP, r.opt, r.n); err != nil {
			return fail(opRings, err)
		}
	}
	if err = s.mapRings(cfg); err != nil {
		return fail(opRings, err)
	}
	s.setSendLimits(cfg)

	for i := range cfg.RxFrames {
		s.fill.set(i, uint64(i)*s.umem.chunk)
	}
	s.fill.publish(cfg.RxFrames)

	if err = s.bind(cfg); err != nil {
		return fail(opBind, err)
	}
	opts, err := unix.GetsockoptInt(s.fd, unix.SOL_XDP, unix.XDP_OPTIONS)
	if err != nil {
		return fail("getsockopt XDP_OPTIONS", err)
	}
	s.zero = opts&unix.XDP_OPTIONS_ZEROCOPY != 0
	if cfg.Bursts && !s.zero {
		if err = s.burst.open(cfg.IfIndex); err != nil {
			return fail("make the socket for bursts", err)
		}
	}
	return nil
}

func (s *Socket) bind(cfg Config) error {
	flags := uint16(unix.XDP_USE_NEED_WAKEUP)
	switch cfg.ZeroCopy {
	case Auto: // with neither flag the kernel tries zero-copy and falls back by itself
	case Copy:
		flags |= unix.XDP_COPY
	case Zero:
		flags |= unix.XDP_ZEROCOPY
	}
	sa := &unix.SockaddrXDP{Flags: flags, Ifindex: uint32(cfg.IfIndex), QueueID: uint32(cfg.Queue)}
	for deadline := time.Now().Add(busyPatience); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Bind(s.fd, sa)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
	}
}

func (s *Socket) mapRings(cfg Config) error {
	off, err := getXDPOption[unix.XDPMmapOffsets](s.fd, unix.XDP_MMAP_OFFSETS)
	if err != nil {
		return err
	}
	if s.rx.ring, err = mapRing[Desc](s, off.Rx, unix.XDP_PGOFF_RX_RING, cfg.RxFrames); err != nil {
		return err
	}
	if s.tx.ring, err = mapRing[Desc](s, off.Tx, unix.XDP_PGOFF_TX_RING, 2*cfg.TxFrames); err != nil {
		return err
	}
	if s.fill.ring, err = mapRing[uint64](s, off.Fr, unix.XDP_UMEM_PGOFF_FILL_RING, 2*cfg.RxFrames); err != nil {
		return err
	}
	s.comp.ring, err = mapRing[uint64](s, off.Cr, unix.XDP_UMEM_PGOFF_COMPLETION_RING, cfg.TxFrames)
	return err
}

func mapRing[T uint64 | Desc](s *Socket, off unix.XDPRingOffset, pgoff int64, n int) (ring[T], error) {
	mem, err := unix.Mmap(s.fd, pgoff, ringBytes[T](off, n), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return ring[T]{}, err
	}
	s.maps = append(s.maps, mem)
	return viewRing[T](mem, off, n)
}

// setSendLimits lifts two limits of copy mode. Neither is needed to work, so failures are no error.
func (s *Socket) setSendLimits(cfg Config) {
	// Each frame in flight is charged to the socket's send buffer, whose default is good for about 90 full
	// ones. Let all chunks be in flight: the kernel doubles the value, and an skb of a
	// full frame is charged with up to two chunks.
	size := cfg.TxFrames * cfg.FrameSize
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size) != nil {
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, size)
	}
	// How many frames one system call sends: 32, unless told (kernel 6.17 and later).
	if n := min(cfg.TxFrames, txBudget); n > kernelTxBudget {
		_ = unix.SetsockoptInt(s.fd, unix.SOL_XDP, unix.XDP_MAX_TX_SKB_BUDGET, n)
	}
}

// FD returns the socket's file descriptor, for the XSKMAP; -1 once closed.
func (s *Socket) FD() int {
	s.open.RLock()
	defer s.open.RUnlock()
	return s.fd
}

// ZeroCopy tells the mode reached: true if the device moves the frames itself.
func (s *Socket) ZeroCopy() bool { return s.zero }

// Frame returns the bytes of a frame, without a copy; its capacity ends with it. They are the frame's
// until the descriptor goes to Recycle, Transmit or Free. It panics if d lies outside the UMEM.
func (s *Socket) Frame(d Desc) []byte {
	end := d.Addr + uint64(d.Len)
	return s.umem.mem[d.Addr:end:end]
}

// Close takes the socket off its queue and gives back all of its memory: no slice from Frame or
// Meta may be touched any more. It makes a Wait in progress return. Needs the user's lock; closing
// twice is no error. After it, methods that move frames move none.
func (s *Socket) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.waiter.signal()
	s.open.Lock()
	defer s.open.Unlock()
	return s.release()
}

// release undoes as much of setup as was done.
func (s *Socket) release() error {
	var errs []error
	if s.fd >= 0 {
		errs = append(errs, unix.Close(s.fd))
		s.fd = -1
	}
	// A mapped ring keeps the socket alive in the kernel, and the queue busy.
	s.rx, s.tx, s.fill, s.comp = consumer[Desc]{}, producer[Desc]{}, producer[uint64]{}, consumer[uint64]{}
	for _, m := range s.maps {
		errs = append(errs, unix.Munmap(m))
	}
	s.maps = nil
	errs = append(errs, s.burst.close())
	if s.umem != nil {
		errs = append(errs, s.umem.unmap())
	}
	if s.waiter.fd >= 0 {
		errs = append(errs, unix.Close(s.waiter.fd))
		s.waiter.fd = -1
	}
	return errors.Join(errs...)
}
