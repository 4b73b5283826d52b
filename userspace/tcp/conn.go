// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// Handshake is what XDP agreed with the client.
type Handshake struct {
	ISS, IRS Seq // ours and the client's initial sequence number
	// MSS is the largest payload with options that we may send: the client's option, but no more than our MTU allows.
	// Options come off it (RFC 6691).
	MSS                  int
	SndWScale, RcvWScale uint8 // shifts of the client's and of our window; 0 when not negotiated
	SACK, Timestamps     bool
	ECN                  bool
	TSOffset             uint32        // our TSval is this plus a tick for each 2^20 ns
	RcvWnd               uint32        // the window of our SYN/ACK, which is never scaled
	RTT                  time.Duration // of the handshake; 0: unknown
}

// A Conn is one connection. The zero value is in CLOSED; Open starts it.
//
// The send sequence space (RFC 9293, 3.3.1), with the send buffer under it:
//
//	        sndUna           sndNxt            sndUna+sndWnd
//	----------|----------------|-----------------|---------
//	 acked    |   in flight    |  may be sent    | not yet
//	          [=============== snd =================]       FIN goes here
//
// The receive sequence space:
//
//	   rcvNxt-ready     rcvNxt                rcvAdv
//	--------|-------------|---------------------|---------
//	 read   | for Read    |  window, with holes | not allowed
//	        [=============== rcv ==========]
type Conn struct {
	cfg *Config
	err error
	snd sendBuffer
	rcv recvBuffer

	state State
	flags flag

	sndWScale, rcvWScale uint8

	// Send.
	sndUna, sndNxt Seq
	sndWL1, sndWL2 Seq    // SEG.SEQ and SEG.ACK of the last window update
	sndWnd         uint32 // from sndUna
	maxSndWnd      uint32 // the largest ever
	mss            int32  // payload of a full segment; SACK blocks come off it

	// Receive.
	rcvNxt      Seq
	rcvAdv      Seq    // right edge of the window that we have advertised; never moves left
	lastAckSent Seq    // RFC 7323's Last.ACK.sent
	finSeq      Seq    // where the peer's FIN is, once finSeen
	wndPeak     uint32 // the largest window that we have advertised
	rcvMSS      int32  // largest payload that has come, up to mss: what a full-size segment is
	dsack       seqRange

	// Timestamps (RFC 7323).
	tsOffset   uint32
	tsRecent   uint32
	tsRecentAt Time

	// Round-trip time.
	rtt    rttEstimator
	rttAt  Time // when the segment that ends at rttSeq was sent; 0: none is timed
	rttSeq Seq

	// Loss recovery: recovery.go.
	recovery recovery
	backoff  uint8 // doublings of the RTO
	retries  uint8 // time-outs in a row
	dupAcks  uint8
	dupBytes int32 // without SACK: what duplicate ACKs say has left the network
	recover  Seq
	highRxt  Seq
	sacked   *rangeSet // what the peer holds beyond sndUna; nil when nothing
	cwnd     Window

	cwrEnd Seq // an ECE counts again when more than this is acknowledged: ecn.go

	// Timers; Never when off.
	rtxAt      Time // retransmission, or with flagPersist the window probe
	ackAt      Time // delayed acknowledgment
	stateAt    Time // end of TIME-WAIT or FIN-WAIT-2
	poolAt     Time // look whether the pool has room again
	lastSendAt Time // of the last data, to notice idle time

	challengeAt Time // start of the interval that challenges counts in
	challenges  uint8

	softError wire.ICMPKind // the last one; 0: none

	stats stats
}

// flag is one bit of a connection's state.
type flag uint32

const (
	flagSACK       flag = 1 << iota // negotiated
	flagTimestamps                  // negotiated
	flagTSValid                     // tsRecent is good for PAWS
	flagECN                         // negotiated
	flagNagle                       // hold small segments back while data is in flight

	flagCloseWrite // the application is done sending: FIN after what is queued
	flagFinSent
	flagFinAcked
	flagCloseRead // the application does not read any more
	flagOrphan    // Close was called: nobody is there
	flagFinSeen   // finSeq is known
	flagEOF       // the peer's FIN is in sequence

	flagEchoCE    // the peer must hear of congestion: ECE on every ACK
	flagOweCWR    // and that we heard of it: CWR on the next new data
	flagAckNow    // an acknowledgment is owed now
	flagChallenge // the same, counted as a challenge ACK
	flagRst       // a RST is owed; the state is CLOSED
	flagPersist   // rtxAt is for a window probe
	flagProbe     // a window probe is owed
	flagProbed    // the octet at sndNxt is out as a probe, but does not count as sent
	flagForceRxt  // retransmit one segment, whatever cwnd says
	flagRescued   // the rescue retransmission of this recovery is spent
	flagCwndLimited
	flagWantWrite // a Write was cut short
	flagPoolWait  // … by the pool
)

// has reports whether any bit of f is set.
func (c *Conn) has(f flag) bool { return c.flags&f != 0 }

func (c *Conn) set(f flag)   { c.flags |= f }
func (c *Conn) clear(f flag) { c.flags &^= f }

// minMSS keeps a peer from having us send nothing but headers. It leaves room for all options.
const minMSS = 88

// Open starts a connection in ESTABLISHED. The client's final ACK has not been seen: it goes to Input like any segment, and
// until it does, the client's window is taken to be closed.
func (c *Conn) Open(cfg *Config, hs Handshake, now Time) {
	*c = Conn{
		cfg:         cfg,
		state:       StateEstablished,
		sndWScale:   min(hs.SndWScale, 14),
		rcvWScale:   min(hs.RcvWScale, 14),
		sndUna:      hs.ISS.Add(1),
		sndNxt:      hs.ISS.Add(1),
		sndWL1:      hs.IRS,
		sndWL2:      hs.ISS,
		mss:         int32(max(hs.MSS, minMSS)),
		rcvNxt:      hs.IRS.Add(1),
		lastAckSent: hs.IRS.Add(1),
		rcvAdv:      hs.IRS.Add(1 + int(hs.RcvWnd)),
		wndPeak:     hs.RcvWnd,
		rcvMSS:      536,
		tsOffset:    hs.TSOffset,
		recover:     hs.ISS,
		highRxt:     hs.ISS.Add(1),
		rtxAt:       Never,
		ackAt:       Never,
		stateAt:     Never,
		poolAt:      Never,
		lastSendAt:  now,
	}
	if hs.SACK {
		c.set(flagSACK)
	}
	if hs.Timestamps {
		c.set(flagTimestamps)
		c.mss -= 12 // they are in every segment (RFC 6691, 3)
	}
	if hs.ECN {
		c.set(flagECN)
		c.cwrEnd = hs.ISS
	}
	if hs.RTT > 0 {
		c.rtt.sample(hs.RTT)
	}
	c.cwnd.MSS = int(c.mss)
	c.congestion().Init(&c.cwnd)
}

func (c *Conn) congestion() Congestion {
	if c.cfg.Congestion == nil {
		return NewReno{}
	}
	return c.cfg.Congestion
}

// Input takes one received segment in, and says what it changed for the application. Nothing is sent before Output is called.
func (c *Conn) Input(s *wire.Segment, now Time) Event {
	if c.state == StateClosed {
		return 0
	}
	c.stats.segsIn++
	readable := c.readable()
	c.input(s, now)
	return c.events(readable)
}

// events compares with what was before.
func (c *Conn) events(wasReadable bool) Event {
	var ev Event
	if !wasReadable && c.readable() {
		ev |= Readable
	}
	// A quarter of the buffer: a wake-up per acknowledged segment would cost more than it brings.
	if c.has(flagWantWrite) && !c.has(flagPoolWait) && c.SendSpace() >= c.cfg.SendBuffer/4 {
		c.clear(flagWantWrite)
		ev |= Writable
	}
	if c.state == StateClosed {
		ev |= Closed
	}
	return ev
}

func (c *Conn) readable() bool {
	return !c.has(flagCloseRead) && (c.rcv.ready > 0 || c.has(flagEOF))
}

// end goes to CLOSED. What has been received stays for Read, unless nobody is there to read it.
func (c *Conn) end(err error) {
	c.state = StateClosed
	c.err = err
	c.rtxAt, c.ackAt, c.stateAt, c.poolAt = Never, Never, Never, Never
	c.clear(flagAckNow | flagChallenge | flagProbe | flagForceRxt)
	c.releaseSend()
	c.rcv.releaseOOO(c.cfg.Pool)
	if c.has(flagCloseRead) {
		c.rcv.release(c.cfg.Pool)
	}
	c.rcv.releaseIfEmpty(c.cfg.Pool)
}

// abort goes to CLOSED and owes the peer a RST.
func (c *Conn) abort(err error) {
	c.end(err)
	c.rcv.release(c.cfg.Pool)
	c.set(flagRst)
}

func (c *Conn) releaseSend() {
	c.snd.release(c.cfg.Pool)
	c.releaseSacked()
}

func (c *Conn) releaseSacked() {
	if c.sacked != nil {
		c.cfg.Pool.putSet(c.sacked)
		c.sacked = nil
	}
}

// dataEnd is the sequence number after the last byte queued: where our FIN goes.
func (c *Conn) dataEnd() Seq {
	if c.has(flagFinAcked) {
		return c.sndUna.Add(-1)
	}
	return c.sndUna.Add(int(c.snd.size))
}

// outstanding is RFC 5681's FlightSize: sent and not acknowledged.
func (c *Conn) outstanding() int { return int(c.sndNxt.Sub(c.sndUna)) }

// rcvWnd is RCV.WND.
func (c *Conn) rcvWnd() uint32 { return uint32(c.rcvAdv.Sub(c.rcvNxt)) }
