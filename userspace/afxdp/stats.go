// SPDX-License-Identifier: Apache-2.0

package afxdp

import (
	"net"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Stats are totals since Open.
type Stats struct {
	// Ours.
	RxFrames, RxBytes uint64 // taken by Receive
	TxFrames, TxBytes uint64 // put on the TX ring by Transmit, and in bursts
	TxBursts          uint64 // frames that the kernel was given to cut, with a system call for each
	TxKicks           uint64 // system calls to make the kernel send what is on the TX ring
	RxWakeups         uint64 // system calls to make the driver look at the fill ring
	Polls             uint64 // system calls to wait

	// The kernel's: struct xdp_statistics.
	RxDropped      uint64 // frames dropped for other reasons: in copy mode an empty fill ring, or a frame too long
	RxInvalidDescs uint64 // fill ring entries that name no chunk
	TxInvalidDescs uint64 // TX ring entries that the kernel refused
	RxRingFull     uint64 // frames dropped because the RX ring was full
	FillRingEmpty  uint64 // times the kernel wanted a chunk and the fill ring had none
	TxRingEmpty    uint64 // times the kernel looked at the TX ring and found nothing
}

type counters struct {
	rxFrames, rxBytes, txFrames, txBytes, txBursts, txKicks, rxWakeups, polls atomic.Uint64
}

// Stats reads all counters; one system call. After Close ours remain, and the error is net.ErrClosed.
func (s *Socket) Stats() (Stats, error) {
	s.open.RLock()
	defer s.open.RUnlock()
	c := &s.counters
	st := Stats{
		RxFrames: c.rxFrames.Load(), RxBytes: c.rxBytes.Load(),
		TxFrames: c.txFrames.Load(), TxBytes: c.txBytes.Load(),
		TxBursts: c.txBursts.Load(), TxKicks: c.txKicks.Load(), RxWakeups: c.rxWakeups.Load(), Polls: c.polls.Load(),
	}
	if s.closed.Load() {
		return st, net.ErrClosed
	}
	k, err := getXDPOption[unix.XDPStatistics](s.fd, unix.XDP_STATISTICS)
	if err != nil {
		return st, statsError(err)
	}
	st.RxDropped, st.RxInvalidDescs, st.TxInvalidDescs = k.Rx_dropped, k.Rx_invalid_descs, k.Tx_invalid_descs
	st.RxRingFull, st.FillRingEmpty, st.TxRingEmpty = k.Rx_ring_full, k.Rx_fill_ring_empty_descs, k.Tx_ring_empty_descs
	return st, nil
}
